//! Answering, and failing to.

use super::http::{Request, Response};
use super::{Seen, State};
use std::io::{Result, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

/// What goes wrong with requests of this method (any, if empty) whose path contains `path`: not with the first `skip`, then `times`.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) skip: usize,
    pub(crate) times: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// This status, with this X-Error-Code; nothing is done.
    Status(u16, &'static str),
    /// This status and so many seconds to wait; nothing is done.
    RetryAfter(u16, u64),
    /// The connection is closed before anything is done.
    CutBefore,
    /// It is done, half of the answer's body is sent, and the connection is closed.
    CutHalf,
    /// It is done, and the connection is closed without an answer.
    CutAfter,
    /// The answer's body comes in eight pieces with this wait before each.
    Slow(Duration),
    /// The answer's body has a wrong byte.
    Wrong,
    /// The whole content although a range was asked for.
    NoRange,
}

impl Fault {
    pub(crate) fn new(method: &'static str, path: impl Into<String>, what: What) -> Self {
        Self { method, path: path.into(), skip: 0, times: 1, what }
    }

    /// Not the first ones.
    pub(crate) fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// So many.
    pub(crate) fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Again and again.
    pub(crate) fn always(self) -> Self {
        self.times(usize::MAX)
    }
}

fn fault(state: &Mutex<State>, request: &Request) -> Option<What> {
    let mut state = state.lock().unwrap();
    let fits = |fault: &&mut Fault| {
        fault.times > 0 && request.path.contains(&fault.path) && (fault.method.is_empty() || fault.method == request.method)
    };
    for fault in state.faults.iter_mut().filter_map(|fault| Some(fault).filter(fits)) {
        if fault.skip > 0 {
            fault.skip -= 1;
            continue;
        }
        fault.times -= 1;
        return Some(fault.what.clone());
    }
    None
}

/// Reads a request and answers it, or fails as it was told to.
pub(super) fn serve(state: &Mutex<State>, stream: TcpStream, is_hub: bool) -> Result<()> {
    let Some(mut request) = Request::read(&stream)? else { return Ok(()) };
    let fault = fault(state, &request);
    let at = {
        let mut state = state.lock().unwrap();
        state.seen.push(Seen {
            hub: is_hub,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            authorization: request.header("authorization").map(str::to_owned),
            received: request.body.len(),
            sent: 0,
            status: 0,
        });
        state.seen.len() - 1
    };
    let mut response = match &fault {
        Some(What::CutBefore) => return stream.shutdown(Shutdown::Both),
        Some(What::Status(status, code)) => Response::refuse(*status, code, "not now"),
        Some(What::RetryAfter(status, wait)) => Response::refuse(*status, "", "too fast").with("Retry-After", wait.to_string()),
        Some(What::NoRange) => {
            request.forget("range");
            state.lock().unwrap().answer(&request, is_hub)
        }
        _ => state.lock().unwrap().answer(&request, is_hub),
    };
    if fault == Some(What::CutAfter) {
        return stream.shutdown(Shutdown::Both);
    }
    if fault == Some(What::Wrong)
        && let Some(byte) = response.body.last_mut()
    {
        *byte ^= 1;
    }
    let head = request.method == "HEAD";
    let sent = if head {
        0
    } else if fault == Some(What::CutHalf) {
        response.body.len() / 2
    } else {
        response.body.len()
    };
    if let Some(seen) = state.lock().unwrap().seen.get_mut(at) {
        (seen.sent, seen.status) = (sent, response.status);
    }
    let mut text = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", response.status, response.body.len());
    for (name, value) in &response.headers {
        text += &format!("{name}: {value}\r\n");
    }
    (&stream).write_all(format!("{text}\r\n").as_bytes())?;
    let body = &response.body[..sent];
    if let Some(What::Slow(wait)) = fault {
        for piece in body.chunks(body.len() / 8 + 1) {
            std::thread::sleep(wait);
            (&stream).write_all(piece)?;
        }
    } else {
        (&stream).write_all(body)?;
    }
    (&stream).flush()?;
    stream.shutdown(Shutdown::Write)
}
