//! A small HTTP server for unit tests, and which statuses are tried again: the table that every user of the client is tested with.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Statuses, and whether a request that is answered with them is tried again.
pub(crate) const STATUSES: &[(u16, bool)] = &[
    (400, false),
    (401, false),
    (402, false),
    (403, false),
    (404, false),
    (408, true),
    (409, false),
    (412, false),
    (413, false),
    (416, false),
    (422, false),
    (429, true),
    (500, true),
    (501, false),
    (502, true),
    (503, true),
    (504, true),
    (505, false),
    (520, true),
];

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// With the query.
    pub(crate) path: String,
    headers: BTreeMap<String, String>,
}

impl Seen {
    /// The value of a header, by its name in lowercase.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What is answered.
pub(crate) struct Reply {
    head: String,
    body: Vec<u8>,
    stalls: bool,
}

/// An answer.
pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    Reply { head: head + "\r\n", body: body.to_vec(), stalls: false }
}

impl Reply {
    /// Only so many bytes of the body are sent, and the connection is closed.
    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.body.truncate(at);
        self
    }

    /// Only so many bytes of the body are sent, and the connection stays open for a while.
    pub(crate) fn stalled_after(self, at: usize) -> Self {
        Self { stalls: true, ..self.cut(at) }
    }
}

/// The running server; it ends with the tests.
pub(crate) struct Server {
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers each request.
    pub(crate) fn start(answer: impl Fn(&Seen) -> Reply + Send + 'static) -> Self {
        Self::start_counting(move |seen, _| answer(seen))
    }

    /// Answers each request; the second argument says how many came before.
    pub(crate) fn start_counting(answer: impl Fn(&Seen, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Some(request) = read(&stream) else { continue };
                let count = {
                    let mut all = all.lock().unwrap();
                    all.push(request.clone());
                    all.len() - 1
                };
                let reply = answer(&request, count);
                let _ = (&stream).write_all(&[reply.head.as_bytes(), &reply.body].concat());
                if reply.stalls {
                    thread::spawn(move || {
                        thread::sleep(Duration::from_secs(3));
                        drop(stream);
                    });
                }
            }
        });
        Self { address, seen }
    }

    /// The requests that came.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split_whitespace().nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some(Seen { path, headers })
}
