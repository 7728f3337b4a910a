//! Tests of `voxpipe demo`: its page, and its API for OpenAI transcription clients.

use super::*;
use crate::support::{python, skipped};
use std::process::Command;

const NANO: &str = "pipelines/models/voxtral-nano";

fn demo(sandbox: &Sandbox) -> Server {
    Server::start(sandbox, &["demo", "--port", "0", "--model", own(NANO).to_str().unwrap(), "--device", "cpu"])
}

/// A multipart form with fields and a file, as browsers and HTTP libraries encode it.
fn form(fields: &[(&str, &str)], file: Option<(&str, &[u8])>) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        body.extend(format!("--XX\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").into_bytes());
    }
    if let Some((name, bytes)) = file {
        body.extend(format!("--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n").into_bytes());
        body.extend([bytes, b"\r\n"].concat());
    }
    body.extend(b"--XX--\r\n");
    body
}

#[test]
fn a_file_is_written_down_as_transcribe_does() {
    let sandbox = Sandbox::new();
    let server = demo(&sandbox);
    let clip = own("tests/audio/speech.wav");
    let transcribed =
        sandbox.run(&["transcribe", clip.to_str().unwrap(), "--model", own(NANO).to_str().unwrap(), "--device", "cpu", "--language", "en"]);
    let expected = transcribed.exits(0).stdout.trim().to_owned();
    assert!(!expected.is_empty());
    let send = |fields: &[(&str, &str)], file: Option<(&str, &[u8])>| {
        let kind = [("content-type", "multipart/form-data; boundary=XX"), ("x-voxpipe", "")];
        server.send("POST", "/v1/audio/transcriptions", &kind, &form(fields, file))
    };
    let speech = speech();
    let told = send(&[("model", "whisper-1"), ("language", "en")], Some(("speech.wav", &speech))).is(200);
    assert_eq!(told["text"], expected.as_str());
    let text = send(&[("model", "voxtral-nano"), ("language", "en"), ("response_format", "text")], Some(("speech.wav", &speech)));
    assert_eq!(text.text(), format!("{expected}\n"));
    let long = send(&[("model", "m"), ("language", "en"), ("response_format", "verbose_json")], Some(("speech.wav", &speech))).is(200);
    assert!(long["duration"].as_f64().unwrap() > 0.5 && long["segments"][0]["text"] == expected.as_str());
    assert_eq!(server.get("/v1/models").is(200)["data"][0]["id"], "voxtral-nano");
    assert!(server.get("/").text().contains("<h1>Transcribe</h1>"));

    send(&[("model", "m")], None).is(400);
    send(&[("model", "m"), ("response_format", "srt")], Some(("a.wav", &speech))).is(400);
    send(&[("model", "m"), ("language", "xx")], Some(("a.wav", &speech))).is(400);
    send(&[("model", "m")], Some(("a.wav", b"no sound at all"))).is(415);
    // Cross-origin requests are rejected.
    server.send("POST", "/v1/audio/transcriptions", &[("origin", "http://evil.example")], b"").is(403);
}

#[test]
fn the_client_of_openai_is_understood() {
    let Some(python) = python("openai") else { return skipped("OpenAI's client and `voxpipe demo`", "no Python with openai") };
    let sandbox = Sandbox::new();
    let server = demo(&sandbox);
    let script = "import sys, openai\n\
                  client = openai.OpenAI(base_url=sys.argv[1] + 'v1', api_key='none')\n\
                  print(client.models.list().data[0].id)\n\
                  print(repr(client.audio.transcriptions.create(model='voxtral-nano', file=open(sys.argv[2], 'rb'), language='en').text))";
    let ran = Command::new(python).args(["-c", script, &server.address]).arg(own("tests/audio/speech.wav")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.starts_with("voxtral-nano\n'") && said.len() > "voxtral-nano\n''\n".len(), "{said}");
}

#[test]
fn a_model_that_is_not_there_is_told_at_once() {
    Sandbox::new().run(&["demo", "--model", "nowhere"]).exits(2).complains("`nowhere`");
}
