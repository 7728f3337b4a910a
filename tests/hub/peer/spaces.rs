//! What a Space has beside its files.

use super::State;
use super::http::{Request, Response};
use serde_json::{Value, json};

type Key = (String, String);
type Answer = Result<Response, Response>;

impl State {
    pub(super) fn space(&mut self, request: &Request, key: &Key, what: &str) -> Answer {
        let asked = request.json();
        let repo = self.repo(&key.0, &key.1);
        match what {
            "variables" | "secrets" => {
                let secret = what == "secrets";
                let (store, other) = if secret { (&mut repo.secrets, &repo.variables) } else { (&mut repo.variables, &repo.secrets) };
                if let Some(name) = asked["key"].as_str() {
                    if other.contains_key(name) {
                        return Err(Response::refuse(400, "", "Cannot set: a secret or variable with this name already exists"));
                    }
                    if request.method == "DELETE" {
                        store.remove(name);
                    } else {
                        store.insert(name.to_owned(), asked["value"].as_str().unwrap_or_default().to_owned());
                    }
                }
                let told = |(name, value): (&String, &String)| {
                    let value = if secret { Value::Null } else { json!(value) };
                    (name.clone(), json!({ "key": name, "value": value, "description": null, "updatedAt": "2026-01-01T00:00:00.000Z" }))
                };
                Ok(Response::json(Value::Object(store.iter().map(told).collect())))
            }
            "runtime" => {
                let told = runtime(repo);
                if repo.stages.len() > 1 {
                    repo.stages.remove(0);
                }
                Ok(Response::json(told))
            }
            "hardware" => {
                let flavor = asked["flavor"].as_str().unwrap_or_default();
                if flavor != "cpu-basic" {
                    return Err(Response::refuse(402, "", "Payment required"));
                }
                flavor.clone_into(&mut repo.hardware);
                Ok(Response::json(runtime(repo)))
            }
            "restart" => {
                repo.stages = vec!["BUILDING".to_owned(), "RUNNING".to_owned()];
                Ok(Response::json(runtime(repo)))
            }
            "pause" => {
                repo.stages = vec!["PAUSED".to_owned()];
                Ok(Response::json(runtime(repo)))
            }
            "sleeptime" => Ok(Response::json(runtime(repo))),
            _ => Err(Response::refuse(404, "", "there is nothing here")),
        }
    }
}

fn runtime(repo: &super::repos::Repo) -> Value {
    json!({
        "stage": repo.stages[0], "hardware": { "current": repo.hardware, "requested": repo.hardware }, "storage": null, "gcTimeout": 172_800,
        "replicas": { "current": 1, "requested": 1 }, "devMode": false, "sha": repo.branches["main"],
        "domains": [{ "domain": format!("{}.hf.space", repo.id.replace('/', "-").to_lowercase()), "stage": "READY" }],
    })
}
