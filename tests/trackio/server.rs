//! A fake Trackio server: records the requests it receives and rejects a given number of requests first.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// The running server; it ends with the test process.
pub(crate) struct Server {
    /// URL: `http://127.0.0.1:PORT`.
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// Number of requests that are still to be rejected.
    away: usize,
    version: u64,
    token: String,
}

impl Server {
    pub(crate) fn start(token: &str, version: u64, away: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { asked: Vec::new(), away, version, token: token.to_owned() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &shared);
            }
        });
        Self { address, state }
    }

    /// The accepted requests to a path.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.state.lock().unwrap().asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let (mut length, mut token) = (0, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or_default();
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "x-trackio-write-token" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut state = state.lock().unwrap();
    let (status, text) = if state.away > 0 {
        state.away -= 1;
        (503, r#"{"error":"writes are paused"}"#.to_owned())
    } else if path == "/version" {
        (200, format!(r#"{{"version":"0.43.0","api_version":{}}}"#, state.version))
    } else if token.as_deref() != Some(state.token.as_str()) {
        // Some servers echo the token in the error message; the client must redact it.
        (400, format!(r#"{{"error":"A write_token is required, not {}"}}"#, token.unwrap_or_default()))
    } else {
        let text = if path == "/api/upload" { r#"{"paths":["/tmp/trackio-upload-1.wav"]}"# } else { r#"{"data":null}"# };
        state.asked.push(Asked { path, token, body });
        (200, text.to_owned())
    };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    stream.flush()
}
