//! Hostile requests: rejected with the right status and without side effects.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn what_nobody_honest_sends_is_refused_and_leaves_no_trace() {
    let (sandbox, server) = begun(3, 3);
    let id = phrases(&server)[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/takes/{id}");
    let before = files(&sandbox.root().to_owned());
    let wav = take(0);
    let rows: Vec<(u16, Answer)> = vec![
        (403, server.send("POST", &path, &[("origin", "http://evil.example")], &wav)),
        (403, server.send("GET", "/api/phrases", &[("origin", "null")], b"")),
        (421, server.send("GET", "/api/phrases", &[("host", "evil.example")], b"")),
        (421, server.send("POST", &path, &[("host", &format!("rebound.example:{}", server.port))], &wav)),
        // An HTML form on another page can send this request, but not the header.
        (403, server.send("POST", "/api/run", &[("x-voxpipe", "")], b"")),
        (403, server.send("POST", &path, &[("x-voxpipe", "")], &wav)),
        (404, server.send("POST", "/api/takes/nobody-0001", &[], &wav)),
        (404, server.send("POST", "/api/takes/..%2F..%2Fevil", &[], &wav)),
        (400, server.send("GET", "/api/takes/..%2Fpipeline.toml", &[], b"")),
        (404, server.send("GET", "/api/takes/../pipeline.toml", &[], b"")),
        (400, server.send("GET", "/api/takes/.reports.jsonl", &[], b"")),
        (404, server.send("GET", "/api/sound/dataset/../../../pipeline.toml", &[], b"")),
        (404, server.send("GET", "/api/sound/dataset/..%2F..%2Fdata.jsonl", &[], b"")),
        (404, server.send("GET", "/api/sound/store/a.wav", &[], b"")),
        (404, server.send("GET", "/assets/../../Cargo.toml", &[], b"")),
        (400, server.send("POST", "/api/uploads/..%2Fevil.wav", &[], &wav)),
        (400, server.send("POST", "/api/uploads/.hidden.wav", &[], &wav)),
        (415, server.send("POST", &path, &[], b"MZ this is no sound")),
        (415, server.send("POST", &path, &[], b"RIFF\x10\0\0\0WAVEfmt broken")),
        (415, server.send("POST", &path, &[], &wav[..40])),
        (400, server.send("POST", &path, &[("x-sha256", &"0".repeat(64))], &wav)),
        (405, server.send("DELETE", &path, &[], b"")),
        (400, server.send("GET", "/api/diff?a=--help&b=..%2F..", &[], b"")),
        (400, server.send("POST", "/api/run", &[("content-type", "application/json")], br#"{"set":["--help"]}"#)),
        (400, server.send("POST", "/api/begin", &[("content-type", "application/json")], b"{not json")),
        (400, server.post("/api/settings", &json!({ "set": { "params": null, "": 1 } }))),
    ];
    for (at, (status, answer)) in rows.iter().enumerate() {
        assert_eq!(answer.status, *status, "request {at}: {}", answer.text());
        assert!(answer.head.contains("content-security-policy") && !answer.text().contains(&sandbox.root().display().to_string()));
    }
    // An oversized body is rejected by its Content-Length, before it is sent.
    let begun = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost:{}\r\nx-voxpipe: 1\r\nconnection: close\r\ncontent-length: 9000000000\r\n\r\nRIFF",
        server.port
    );
    assert_eq!(server.raw(begun.as_bytes()).status, 413);
    for nonsense in [&b"\x16\x03\x01\0\x05hello\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        assert!([0, 400, 505].contains(&server.raw(nonsense).status));
    }
    let mut after = files(&sandbox.root().to_owned());
    // Reads may create cache files below `.voxpipe`.
    after.retain(|name, _| before.contains_key(name) || !name.starts_with(".voxpipe/"));
    assert!(after.keys().eq(before.keys()), "{:?}", after.keys().filter(|name| !before.contains_key(*name)).collect::<Vec<_>>());
    assert_eq!(after["pipeline.toml"], before["pipeline.toml"]);
}

#[test]
fn a_thousand_connections_do_not_bring_it_down() {
    // The other tests of this process also need file descriptors.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).unwrap();
    if limit.maximum.is_some_and(|files| files < 4096) {
        return crate::support::skipped("a thousand connections", "this machine allows a process fewer than 4096 files");
    }
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    let mut open: Vec<TcpStream> = (0..1000).filter_map(|_| TcpStream::connect(("127.0.0.1", server.port)).ok()).collect();
    let refused = open.split_off(open.len() - 100).into_iter().filter(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut words = [0; 12];
        stream.read_exact(&mut words).is_ok() && &words == b"HTTP/1.1 503"
    });
    assert_eq!(refused.count(), 100);
    // Accepted connections are served.
    let first = &mut open[0];
    write!(first, "GET /api/languages HTTP/1.1\r\nhost: localhost:{}\r\nconnection: close\r\n\r\n", server.port).unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(open);
    let begun = Instant::now();
    while server.get("/api/languages").status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not recover");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_address_that_others_reach_wants_the_token() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["studio", "--host", "0.0.0.0", "--port", "0"]);
    let token = server.address.split("token=").nth(1).expect("the address has no token").to_owned();
    assert_eq!(token.len(), 32);
    server.get("/").is(401);
    server.get("/api/languages").is(401);
    server.get("/?token=00000000000000000000000000000000").is(401);
    let entered = server.get(&format!("/?token={token}"));
    assert_eq!(entered.status, 200);
    let cookie = entered.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("no cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    server.send("GET", "/api/languages", &[("cookie", &format!("a=b; voxpipe_token={token}"))], b"").is(200);
    server.send("GET", "/api/languages", &[("authorization", &format!("Bearer {token}"))], b"").is(200);
    server.send("GET", "/api/languages", &[("cookie", "voxpipe_token=wrong")], b"").is(401);
    // A loopback address needs no token.
    assert!(!Server::start(&sandbox, &["studio", "--port", "0"]).address.contains("token"));
}
