//! Large files: asked for by a batch, put into a store on another host in one piece or in parts, and read from there.

use super::http::{Request, Response};
use super::reading::ranged;
use super::{State, sha256};
use serde_json::{Value, json};

type Answer = Result<Response, Response>;

impl State {
    pub(super) fn batch(&mut self, request: &Request, kind: &str, id: &str) -> Answer {
        let asked = request.json();
        let parts = asked["transfers"].as_array().is_some_and(|known| known.iter().any(|transfer| transfer == "multipart"));
        let prefix = if kind == "model" { String::new() } else { format!("{kind}s/") };
        let verify = format!("{}/{prefix}{id}.git/info/lfs/objects/verify", self.address);
        let mut transfer = "basic";
        let mut objects = Vec::new();
        for object in asked["objects"].as_array().into_iter().flatten() {
            let (oid, size) = (object["oid"].as_str().unwrap_or_default(), object["size"].as_u64().unwrap_or(0) as usize);
            let mut answer = json!({ "oid": oid, "size": size });
            if !self.lfs.contains_key(oid) {
                let mut upload = json!({ "href": format!("{}/put/{oid}?signature=a", self.store), "expires_in": 900 });
                if parts && size > self.part {
                    transfer = "multipart";
                    let mut header = json!({ "chunk_size": self.part.to_string() });
                    for part in 1..=size.div_ceil(self.part) {
                        header[format!("{part:05}")] = json!(format!("{}/part/{oid}/{part}?signature=a", self.store));
                    }
                    upload = json!({ "href": format!("{}/api/complete_multipart?oid={oid}", self.address), "header": header });
                }
                answer["authenticated"] = json!(true);
                answer["actions"] = json!({ "upload": upload, "verify": { "href": verify } });
            }
            objects.push(answer);
        }
        let answer = json!({ "transfer": transfer, "objects": objects });
        Ok(Response::bytes(200, answer.to_string()).with("Content-Type", "application/vnd.git-lfs+json"))
    }

    pub(super) fn verify(&mut self, request: &Request) -> Answer {
        let asked = request.json();
        let there = asked["oid"].as_str().and_then(|oid| self.lfs.get(oid)).map(|content| content.size());
        match there {
            Some(size) if Some(size) == asked["size"].as_u64() => Ok(Response::bytes(200, "")),
            _ => Err(Response::refuse(404, "", "object not found")),
        }
    }

    pub(super) fn complete(&mut self, request: &Request) -> Answer {
        let asked = request.json();
        let oid = asked["oid"].as_str().unwrap_or_default().to_owned();
        let mut bytes = Vec::new();
        for part in asked["parts"].as_array().into_iter().flatten() {
            let number = part["partNumber"].as_u64().unwrap_or(0) as usize;
            let stored = self.parts.get(&(oid.clone(), number));
            let stored = stored.filter(|stored| part["etag"].as_str().map(|tag| tag.trim_matches('"')) == Some(&tag(stored)));
            bytes.extend_from_slice(stored.ok_or_else(|| Response::refuse(400, "", "InvalidPart"))?);
        }
        if sha256(&bytes) != oid {
            return Err(Response::refuse(400, "", "checksum mismatch"));
        }
        self.parts.retain(|(of, _), _| *of != oid);
        self.lfs.insert(oid, bytes.into());
        Ok(Response::json(Value::Object(serde_json::Map::new())))
    }

    /// The store of large files, which has its own signatures in the address and wants no token.
    pub(super) fn large(&mut self, request: &Request, parts: &[&str]) -> Answer {
        if request.header("authorization").is_some() {
            return Err(Response::refuse(400, "", "Only one auth mechanism allowed"));
        }
        match (request.method.as_str(), parts) {
            ("GET" | "HEAD", ["cdn", oid, ..]) => {
                let content = self.lfs.get(*oid).ok_or_else(|| Response::refuse(404, "", "no such object"))?;
                Ok(ranged(request, content).with("ETag", format!("\"{oid}\"")))
            }
            ("PUT", ["put", oid]) => {
                if request.header("content-length").is_none() {
                    return Err(Response::bytes(411, "<Error><Code>MissingContentLength</Code></Error>"));
                }
                if sha256(&request.body) != *oid {
                    return Err(Response::bytes(400, "<Error><Code>BadDigest</Code></Error>"));
                }
                self.lfs.insert((*oid).to_owned(), request.body.clone().into());
                Ok(Response::bytes(200, "").with("ETag", format!("\"{}\"", tag(&request.body))))
            }
            ("PUT", ["part", oid, number]) => {
                let number = number.parse().map_err(|_| Response::refuse(400, "", "no such part"))?;
                self.parts.insert(((*oid).to_owned(), number), request.body.clone());
                Ok(Response::bytes(200, "").with("ETag", format!("\"{}\"", tag(&request.body))))
            }
            _ => Err(Response::bytes(404, "<Error><Code>NoSuchKey</Code></Error>")),
        }
    }
}

/// A store's own name for some bytes.
fn tag(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}
