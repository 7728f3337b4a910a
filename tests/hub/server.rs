//! A small Hub on this machine: one repository, its files behind two addresses as on the real one, and faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The repository it serves.
pub(crate) const REPOSITORY: &str = "acme/tiny-voxtral";
/// The commit that `main` is.
pub(crate) const COMMIT: &str = "c0ffee0123456789c0ffee0123456789c0ffee01";

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// What goes wrong with requests whose path contains `path`, so many times.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) path: &'static str,
    pub(crate) times: usize,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// This status, with this X-Error-Code.
    Status(u16, &'static str),
    /// Half of the body, and the connection is closed.
    Cut,
}

/// The running server; it ends with the tests.
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Where large files are, another host for a client that looks at ports.
    store: String,
    /// The commit that `main` is now.
    commit: Mutex<String>,
    seen: Mutex<Vec<(bool, Seen)>>,
    faults: Mutex<Vec<Fault>>,
}

impl Server {
    pub(crate) fn start(files: BTreeMap<String, Vec<u8>>, faults: &[Fault]) -> Self {
        let (hub, store) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            files,
            store: url(&store),
            commit: Mutex::new(COMMIT.to_owned()),
            seen: Mutex::default(),
            faults: Mutex::new(faults.to_vec()),
        };
        let server = Self { address: url(&hub), state: Arc::new(state) };
        for (listener, is_hub) in [(hub, true), (store, false)] {
            let state = Arc::clone(&server.state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    // A client that goes away in the middle is part of what is tested.
                    thread::spawn(move || drop(state.answer(stream, is_hub)));
                }
            });
        }
        server
    }

    /// Moves the branch to another commit, with the same files.
    pub(crate) fn move_to(&self, commit: &str) {
        *self.state.commit.lock().unwrap() = commit.to_owned();
    }

    /// What the Hub itself was asked.
    pub(crate) fn asked(&self) -> Vec<Seen> {
        self.seen(true)
    }

    /// What the store of large files was asked.
    pub(crate) fn fetched(&self) -> Vec<Seen> {
        self.seen(false)
    }

    fn seen(&self, hub: bool) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().filter(|(of, _)| *of == hub).map(|(_, seen)| seen.clone()).collect()
    }

    pub(crate) fn break_with(&self, fault: Fault) {
        self.state.faults.lock().unwrap().push(fault);
    }

    pub(crate) fn mend(&self) {
        self.state.faults.lock().unwrap().clear();
    }
}

/// The name of a file's content: as long as the Hub's, though another digest.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    let digest = blake3::hash(bytes).to_hex().to_string();
    if is_large(name) { digest } else { digest[..40].to_owned() }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

impl State {
    fn answer(&self, stream: TcpStream, is_hub: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let mut authorization = None;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                authorization = Some(value.trim().to_owned());
            }
        }
        self.seen.lock().unwrap().push((is_hub, Seen { method: method.clone(), path: path.clone(), authorization }));
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let found = faults.iter_mut().find(|fault| fault.times > 0 && path.contains(fault.path) && (method == "GET"));
            found.map(|fault| {
                fault.times -= 1;
                fault.what
            })
        };
        let (status, headers, body) = match fault {
            Some(What::Status(status, code)) => {
                let headers = format!("X-Error-Code: {code}\r\nX-Error-Message: not for you\r\n");
                (status, headers, br#"{"error":"not for you"}"#.to_vec())
            }
            _ => self.content(&path, is_hub),
        };
        let length = body.len();
        write!(&stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n")?;
        let sent = if matches!(fault, Some(What::Cut)) { length / 2 } else { length };
        if method != "HEAD" {
            (&stream).write_all(&body[..sent])?;
        }
        (&stream).flush()
    }

    fn content(&self, path: &str, is_hub: bool) -> (u16, String, Vec<u8>) {
        let json = |value: serde_json::Value| (200, "Content-Type: application/json\r\n".to_owned(), value.to_string().into_bytes());
        let path = path.split('?').next().unwrap_or_default().replace("%2F", "/");
        if !is_hub {
            let name = path.trim_start_matches("/store/");
            return (200, String::new(), self.files[name].clone());
        }
        let missing = |code: &str| (404, format!("X-Error-Code: {code}\r\nX-Repo-Commit: {COMMIT}\r\n"), Vec::new());
        if let Some(rest) = path.strip_prefix(&format!("/api/models/{REPOSITORY}")) {
            let known = |revision: &str| revision == "main" || revision == COMMIT;
            if let Some(revision) = rest.strip_prefix("/revision/") {
                let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
                return match known(revision) {
                    true => json(
                        serde_json::json!({ "_id": "1", "id": REPOSITORY, "sha": *self.commit.lock().unwrap(), "siblings": siblings, "private": false }),
                    ),
                    false => missing("RevisionNotFound"),
                };
            }
            if rest.strip_prefix("/tree/").is_some_and(known) {
                let entry = |(name, bytes): (&String, &Vec<u8>)| {
                    let lfs =
                        is_large(name).then(|| serde_json::json!({ "oid": etag(name, bytes), "size": bytes.len(), "pointerSize": 130 }));
                    let mut entry = serde_json::json!({ "type": "file", "path": name, "size": bytes.len(), "oid": "0".repeat(40) });
                    if let Some(lfs) = lfs {
                        entry["lfs"] = lfs;
                    }
                    entry
                };
                return json(self.files.iter().map(entry).collect());
            }
        }
        let resolved = path.strip_prefix(&format!("/{REPOSITORY}/resolve/")).and_then(|rest| rest.split_once('/'));
        match resolved.and_then(|(_, name)| Some((name, self.files.get(name)?))) {
            None if path.contains(REPOSITORY) => missing("EntryNotFound"),
            None => missing("RepoNotFound"),
            Some((name, bytes)) => {
                let (tag, size) = (etag(name, bytes), bytes.len());
                let mut headers = format!("X-Repo-Commit: {COMMIT}\r\nETag: \"{tag}\"\r\n");
                if is_large(name) {
                    headers += &format!("X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {size}\r\nLocation: {}/store/{name}\r\n", self.store);
                    return (302, headers, Vec::new());
                }
                (200, headers, bytes.clone())
            }
        }
    }
}
