//! Rows of a data set as the viewer gives them: those of the file `rows/CONFIG-SPLIT.jsonl`, which only this Hub knows.

use super::State;
use super::http::{Request, Response};
use serde_json::{Value, json};

/// Most rows at once.
const PAGE: usize = 100;

impl State {
    pub(super) fn rows(&mut self, request: &Request) -> Result<Response, Response> {
        let asked = |name: &str| request.asks(name).unwrap_or_default();
        let key = self.visible(request, "dataset", &asked("dataset"))?;
        let repo = &self.repos[&key];
        let commit = repo.revision("main").unwrap_or_default();
        let Some(entry) = repo.tree("main").get(&format!("rows/{}-{}.jsonl", asked("config"), asked("split"))).cloned() else {
            return Err(Response::refuse(404, "", "The split is not there"));
        };
        let bytes = self.content(&entry).all();
        let rows: Vec<Value> = String::from_utf8_lossy(&bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let number = |name: &str| asked(name).parse::<usize>().unwrap_or(0);
        let page = rows.iter().enumerate().skip(number("offset")).take(number("length").min(PAGE));
        let page: Vec<Value> = page.map(|(index, row)| json!({ "row_idx": index, "row": row, "truncated_cells": [] })).collect();
        let told = json!({ "features": [], "rows": page, "num_rows_total": rows.len(), "num_rows_per_page": PAGE, "partial": false });
        Ok(Response::json(told).with("X-Revision", commit))
    }
}
