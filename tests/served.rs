//! Data sets on a Hub of this machine: files of any size whose bytes are made when they are asked for, behind two addresses as on the
//! real one, with a list of what was asked and faults on demand.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The commit that `main` is.
pub(crate) const COMMIT: &str = "0b5e55ed0123456789abcdef0123456789abcdef";

/// A file of a repository.
#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// Rows of one length, made by their number: as many as fit into so many bytes.
    Made { size: u64, row: Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>, length: u64 },
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Made { size, .. } => *size,
        }
    }

    pub(crate) fn part(&self, from: u64, length: u64) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes[from as usize..(from + length) as usize].to_vec(),
            Self::Made { row, length: each, .. } => {
                let first = from / each;
                let rows: Vec<u8> = (first..=(from + length) / each).flat_map(|number| row(number)).collect();
                rows[(from - first * each) as usize..][..length as usize].to_vec()
            }
        }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    /// The bytes that were sent.
    pub(crate) sent: u64,
}

/// What goes wrong with requests whose path contains `path`, so many times.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) path: &'static str,
    pub(crate) times: usize,
    pub(crate) what: What,
}

#[derive(Clone, Copy)]
pub(crate) enum What {
    /// This status, with these headers.
    Status(u16, &'static str),
    /// Half of the body, and the connection is closed.
    Cut,
    /// The whole file, whatever part was asked for.
    NoRanges,
}

/// The running server; it ends with the tests.
pub(crate) struct Served {
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    repository: String,
    files: BTreeMap<String, Content>,
    hub: String,
    store: String,
    commit: Mutex<String>,
    /// Who was asked, the Hub or the store.
    seen: Mutex<Vec<(bool, Seen)>>,
    faults: Mutex<Vec<Fault>>,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Served {
    pub(crate) fn start(repository: &str, files: BTreeMap<String, Content>) -> Self {
        let (hub, store) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            repository: repository.to_owned(),
            files,
            hub: url(&hub),
            store: url(&store),
            commit: Mutex::new(COMMIT.to_owned()),
            seen: Mutex::default(),
            faults: Mutex::default(),
        };
        let server = Self { address: url(&hub), state: Arc::new(state) };
        for (listener, is_hub) in [(hub, true), (store, false)] {
            let state = Arc::clone(&server.state);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    thread::spawn(move || drop(state.serve(stream, is_hub)));
                }
            });
        }
        server
    }

    /// Moves the branch to another commit, with the same files.
    pub(crate) fn move_to(&self, commit: &str) {
        *self.state.commit.lock().unwrap() = commit.to_owned();
    }

    pub(crate) fn break_with(&self, path: &'static str, times: usize, what: What) {
        *self.state.faults.lock().unwrap() = vec![Fault { path, times, what }];
    }

    /// What the Hub itself was asked.
    pub(crate) fn asked(&self) -> Vec<Seen> {
        self.seen(true)
    }

    /// What the store of files was asked.
    pub(crate) fn fetched(&self) -> Vec<Seen> {
        self.seen(false)
    }

    fn seen(&self, hub: bool) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().filter(|(of, _)| *of == hub).map(|(_, seen)| seen.clone()).collect()
    }

    /// Bytes of files that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.fetched().iter().map(|seen| seen.sent).sum()
    }

    /// Forgets what was asked.
    pub(crate) fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    pub(crate) fn file(&self, path: &str) -> &Content {
        &self.state.files[path]
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream, is_hub: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let (mut authorization, mut range) = (None, None);
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                break;
            }
            let Some((name, value)) = header.split_once(':') else { continue };
            match name.to_lowercase().as_str() {
                "authorization" => authorization = Some(value.trim().to_owned()),
                "range" => range = value.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')).map(numbers),
                _ => {}
            }
        }
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let found = faults.iter_mut().find(|fault| fault.times > 0 && path.contains(fault.path));
            found.map(|fault| {
                fault.times -= 1;
                fault.what
            })
        };
        let Answer { status, mut headers, body } = match fault {
            Some(What::Status(status, headers)) => Answer { status, headers: headers.to_owned(), body: Vec::new() },
            fault => {
                let range = if matches!(fault, Some(What::NoRanges)) { None } else { range };
                if is_hub { self.ask(&path) } else { self.fetch(path.trim_start_matches('/'), range) }
            }
        };
        headers += &format!("Content-Length: {}\r\nConnection: close\r\n", body.len());
        let cut = if matches!(fault, Some(What::Cut)) { body.len() / 2 } else { body.len() };
        self.seen.lock().unwrap().push((is_hub, Seen { path, authorization, sent: cut as u64 }));
        stream.write_all(format!("HTTP/1.1 {status} X\r\n{headers}\r\n").as_bytes())?;
        stream.write_all(&body[..cut])
    }

    fn fetch(&self, path: &str, range: Option<(u64, u64)>) -> Answer {
        let file = &self.files[&unescaped(path)];
        match range {
            Some((from, to)) if from < file.size() => {
                let to = to.min(file.size() - 1);
                let headers = format!("Content-Range: bytes {from}-{to}/{}\r\n", file.size());
                Answer { status: 206, headers, body: file.part(from, to + 1 - from) }
            }
            Some(_) => missing(416, ""),
            None => Answer { status: 200, headers: String::new(), body: file.part(0, file.size().min(8 << 20)) },
        }
    }

    fn ask(&self, path: &str) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let commit = self.commit.lock().unwrap().clone();
        let known = |revision: &str| revision == "main" || revision == commit || revision == COMMIT;
        if path == "/rows" {
            return self.rows(query, &commit);
        }
        let api = format!("/api/datasets/{}/", self.repository);
        if let Some(rest) = path.strip_prefix(&api) {
            if let Some(revision) = rest.strip_prefix("revision/") {
                return match known(revision) {
                    true => ok(&json!({ "id": self.repository, "sha": commit, "cardData": { "license": "cc-by-4.0" } })),
                    false => missing(404, "RevisionNotFound"),
                };
            }
            if let Some(rest) = rest.strip_prefix("tree/") {
                let (revision, folder) = rest.split_once('/').unwrap_or((rest, ""));
                return if known(revision) { self.tree(path, &unescaped(folder), query) } else { missing(404, "RevisionNotFound") };
            }
        }
        let resolve = format!("/datasets/{}/resolve/", self.repository);
        match path.strip_prefix(&resolve).and_then(|rest| rest.split_once('/')) {
            Some((revision, _)) if !known(revision) => missing(404, "RevisionNotFound"),
            Some((_, name)) if self.files.contains_key(&unescaped(name)) => Answer {
                status: 302,
                headers: format!("X-Repo-Commit: {commit}\r\nLocation: {}/{name}\r\n", self.store),
                body: Vec::new(),
            },
            Some(_) => missing(404, "EntryNotFound"),
            None => missing(404, "RepoNotFound"),
        }
    }

    /// Two entries a page.
    fn tree(&self, path: &str, folder: &str, query: &str) -> Answer {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut entries: BTreeMap<String, Value> = BTreeMap::new();
        for (name, content) in self.files.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            let rest = &name[prefix.len()..];
            let deep = value("recursive") == "true";
            for (end, _) in rest.match_indices('/').take(if deep { usize::MAX } else { 1 }) {
                let name = format!("{prefix}{}", &rest[..end]);
                entries.insert(name.clone(), json!({ "type": "directory", "path": name, "size": 0, "oid": "0" }));
            }
            if deep || !rest.contains('/') {
                entries.insert(name.clone(), json!({ "type": "file", "path": name, "size": content.size(), "oid": "0" }));
            }
        }
        if entries.is_empty() {
            return missing(404, "EntryNotFound");
        }
        let from: usize = value("cursor").parse().unwrap_or(0);
        let page: Value = entries.values().skip(from).take(2).cloned().collect();
        let mut answer = ok(&page);
        if from + 2 < entries.len() {
            let recursive = value("recursive");
            answer.headers += &format!("Link: <{}{path}?recursive={recursive}&cursor={}>; rel=\"next\"\r\n", self.hub, from + 2);
        }
        answer
    }

    /// The viewer: rows of the file `rows/CONFIG-SPLIT.jsonl`.
    fn rows(&self, query: &str, commit: &str) -> Answer {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
        let Some(Content::Bytes(bytes)) = self.files.get(&format!("rows/{}-{}.jsonl", value("config"), value("split"))) else {
            return missing(404, "");
        };
        let rows: Vec<Value> = String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (from, length): (usize, usize) = (value("offset").parse().unwrap(), value("length").parse().unwrap());
        let page = rows.iter().enumerate().skip(from).take(length.min(100));
        let page: Vec<Value> = page.map(|(index, row)| json!({ "row_idx": index, "row": row, "truncated_cells": [] })).collect();
        let mut answer = ok(&json!({ "features": [], "rows": page, "num_rows_total": rows.len(), "num_rows_per_page": 100, "partial": false }));
        answer.headers += &format!("X-Revision: {commit}\r\n");
        answer
    }
}

fn numbers((from, to): (&str, &str)) -> (u64, u64) {
    (from.parse().unwrap(), to.parse().unwrap_or(u64::MAX))
}

fn ok(value: &Value) -> Answer {
    Answer { status: 200, headers: "Content-Type: application/json\r\n".to_owned(), body: value.to_string().into_bytes() }
}

fn missing(status: u16, code: &str) -> Answer {
    Answer { status, headers: format!("X-Error-Code: {code}\r\n"), body: b"{\"error\":\"no\"}".to_vec() }
}

fn unescaped(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let pair: Vec<u8> = if byte == b'%' { rest.by_ref().take(2).collect() } else { Vec::new() };
        bytes.push(if byte == b'%' { u8::from_str_radix(std::str::from_utf8(&pair).unwrap(), 16).unwrap() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}
