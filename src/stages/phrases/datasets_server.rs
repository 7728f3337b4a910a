//! Reads sentences from any dataset on the Hub that the dataset viewer supports, through the datasets-server API (`/rows`).
//!
//! The API returns 100 rows per request and is rate-limited; prefer `source = "granary"` for datasets with Granary's layout.

use super::filters::FilterStats;
use super::{Choice, Phrases, granary};
use crate::data::text::count;
use crate::error::{Error, ErrorKind, Result};
use crate::hub;
use crate::hub::Network;
use crate::hub::read::RepoReader;
use pipeline::stage::Context;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// URL of the Hub's datasets-server.
pub(super) const SERVER: &str = "https://datasets-server.huggingface.co";
/// Rows per request.
const PAGE: u64 = 100;
/// Maximum number of requested pages.
const PAGES: usize = 40;

impl Phrases {
    /// Reads pages in a seeded random order until there are `wanted` suitable sentences.
    pub(super) fn rows(&self, cx: &Context, filter: &mut FilterStats, wanted: usize) -> Result<Choice> {
        let needed =
            |name: &str| Error::new(format!("`source = \"rows\"` needs `{name}`")).kind(ErrorKind::InvalidInput).hint("set it in `with`");
        let repository = hub::dataset(self.repo.as_deref().ok_or_else(|| needed("repo"))?, self.revision.as_deref())?;
        let config = self.config.as_deref().unwrap_or("default");
        let split = self.split.as_deref().unwrap_or("train");
        let server = self.server.as_deref().unwrap_or(SERVER);
        let stopped = || cx.stopping();
        let reader = RepoReader::open(&repository, Network::unless(false), &stopped)?;
        let page = |number: u64| -> Result<Value> {
            let (page, commit) = reader.rows(server, config, split, number * PAGE, PAGE)?;
            match commit {
                Some(commit) if commit != reader.commit() => Err(Error::new(format!(
                    "`{server}` has commit {commit} of `{}`, not the requested {}",
                    repository.id(),
                    reader.commit()
                ))
                .environment()
                .hint("wait until the server has the newest commit, or set `revision` to the commit it has")),
                _ => Ok(page),
            }
        };
        let first = page(0)?;
        let total = first["num_rows_total"].as_u64().unwrap_or(0);
        let mut pages: Vec<u64> = (0..total.div_ceil(PAGE)).collect();
        pages.shuffle(&mut ChaCha8Rng::seed_from_u64(cx.seed));
        pages.truncate(PAGES);
        let (mut phrases, mut rows) = (Vec::new(), 0);
        for number in pages {
            if phrases.len() >= wanted {
                break;
            }
            let page = if number == 0 { first.clone() } else { page(number)? };
            for row in page["rows"].as_array().into_iter().flatten() {
                rows += 1;
                let index = row["row_idx"].as_u64().unwrap_or(0);
                let place = || format!("{} {config}/{split} row {index}", reader.name());
                let empty = Map::new();
                match granary::read(row["row"].as_object().unwrap_or(&empty), self.column.as_deref(), place) {
                    Err(reason) => filter.reject(reason, &format!("row {index}")),
                    Ok(found) => {
                        if let Some(text) = filter.pass(&found) {
                            phrases.push(self.by_text(text, found.place));
                        }
                    }
                }
            }
            cx.progress(phrases.len().min(wanted) as u64, wanted as u64, "sentences", "");
        }
        if rows == 0 {
            return Err(Error::new(format!("`{server}` has no rows of `{}` (`{config}`, `{split}`)", reader.name()))
                .hint("check `config` and `split` on the Hub page of the dataset"));
        }
        let license = reader.license()?;
        let about = json!({ "repository": repository.id(), "commit": reader.commit(), "licence": license, "config": config, "split": split, "rows_read": rows, "rows": total });
        let corpora = vec![config.to_owned(); phrases.len()];
        Ok(Choice { phrases, corpora, about, from: format!("{} of `{}`", count(rows, "row"), reader.name()) })
    }
}
