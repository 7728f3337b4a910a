// Short requests to the studio's server, other than uploads (see queue.js).

export class Server {
  constructor(api) { this.api = api; }

  async post(path, body) {
    const headers = { "X-Voxpipe": "1" };
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(`${this.api}/api/${path}`, { method: "POST", headers, body: body ? JSON.stringify(body) : undefined });
    } catch {
      throw new Error("The server does not answer. Nothing was changed; please try again.");
    }
    const answer = response.status === 204 ? null : await response.json().catch(() => null);
    if (!response.ok) throw new Error((answer && answer.error) || `The server answers ${response.status}.`);
    return answer;
  }

  // Both give the phrase's takes anew; a server may wrap the list.
  async use(file) { return list(await this.post(`takes/${encodeURIComponent(file)}/use`)); }
  async remove(file) { return list(await this.post(`takes/${encodeURIComponent(file)}/remove`)); }
  report(phrase, reason) { return this.post(`phrases/${encodeURIComponent(phrase)}/report`, { reason }); }
}

function list(answer) {
  const takes = Array.isArray(answer) ? answer : answer && answer.takes;
  if (!Array.isArray(takes)) throw new Error("The server’s answer was not understood.");
  return takes;
}
