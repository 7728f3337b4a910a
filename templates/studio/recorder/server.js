// Requests to the server other than uploads (see queue.js).

export class Server {
  constructor(api) { this.api = api; }

  async post(path, body) {
    const headers = { "X-Voxpipe": "1" };
    if (body) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(`${this.api}/api/${path}`, { method: "POST", headers, body: body ? JSON.stringify(body) : undefined });
    } catch {
      throw new Error("The server is not responding. Nothing was changed; try again.");
    }
    const data = response.status === 204 ? null : await response.json().catch(() => null);
    if (!response.ok) throw new Error((data && data.error) || `The server returned status ${response.status}.`);
    return data;
  }

  // Both return the sentence's updated recordings, as a list or as {takes: list}.
  async use(file) { return list(await this.post(`takes/${encodeURIComponent(file)}/use`)); }
  async remove(file) { return list(await this.post(`takes/${encodeURIComponent(file)}/remove`)); }
  report(phrase, reason) { return this.post(`phrases/${encodeURIComponent(phrase)}/report`, { reason }); }
}

function list(data) {
  const takes = Array.isArray(data) ? data : data && data.takes;
  if (!Array.isArray(takes)) throw new Error("Unexpected response from the server.");
  return takes;
}
