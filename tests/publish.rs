//! Publishing to a Hub: whatever goes wrong on the way, it ends published and verified, or with a clear error from which running again
//! goes on; never half, and never twice.

mod program;
mod random;
mod spaces;
mod whole;

use crate::hub::peer::{BOB, FINE, Fault, Hub, READ, WRITE, What, sha256};
use pipeline::exit::Exit;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use voxpipe::error::{Error, ErrorKind};
use voxpipe::hub::RepoType;
use voxpipe::hub::client::HubClient;
use voxpipe::hub::http::{Progress, RetryPolicy};
use voxpipe::hub::publish::{MARKER, Publication, Published, publish};
use voxpipe::hub::token::HubToken;

const REPO: &str = "alice/voice";
const MIB: usize = 1 << 20;

/// Files to publish, and a Hub to publish them to.
struct Bench {
    hub: Hub,
    dir: tempfile::TempDir,
    files: BTreeMap<String, Vec<u8>>,
    token: &'static str,
    kind: RepoType,
    overwrite: bool,
    pipeline: &'static str,
    notes: RefCell<Vec<String>>,
    stop: AtomicBool,
}

/// Bytes that look like nothing in particular.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

impl Bench {
    fn new() -> Self {
        let files = [
            ("README.md", b"---\nlicense: apache-2.0\n---\n# A voice\n".to_vec()),
            ("config.json", b"{}".to_vec()),
            ("empty.txt", Vec::new()),
            ("audio/r 1 \u{e9}#.wav", noise(1, 50_000)),
            ("model.safetensors", noise(2, 3 * MIB + 12_345)),
        ];
        let hub = Hub::start();
        hub.part_size(MIB);
        Self {
            hub,
            dir: tempfile::tempdir().unwrap(),
            files: files.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect(),
            token: WRITE,
            kind: RepoType::Model,
            overwrite: false,
            pipeline: "test",
            notes: RefCell::default(),
            stop: AtomicBool::new(false),
        }
    }

    fn publish(&self) -> Result<Published, Error> {
        self.publish_to(&self.hub.address)
    }

    fn publish_to(&self, address: &str) -> Result<Published, Error> {
        let mut on_disk = BTreeMap::new();
        for (at, (path, bytes)) in self.files.iter().enumerate() {
            let from: PathBuf = self.dir.path().join(format!("file-{at}"));
            fs::write(&from, bytes).unwrap();
            on_disk.insert(path.clone(), from);
        }
        let retry = RetryPolicy { base_delay: Duration::from_millis(2), ..RetryPolicy::default() };
        let client = HubClient::new(address, Some(HubToken::new(self.token, "a test")), retry)?;
        let scratch = self.dir.path().join("scratch");
        let what = Publication {
            kind: self.kind,
            repo: REPO,
            files: &on_disk,
            private: false,
            overwrite: self.overwrite,
            message: "Publish",
            by: [self.pipeline, "publish"],
            scratch: &scratch,
        };
        let note = |words: String| self.notes.borrow_mut().push(words);
        let cancelled = || self.stop.load(std::sync::atomic::Ordering::Relaxed);
        publish(&client, &what, &Progress { cancelled: &cancelled, note: &note, bytes: &|_, _, _| () })
    }

    /// Nothing was published: the repository is not there, or has what it was made with.
    fn untouched(&self) -> bool {
        let kind = self.kind.word();
        !self.hub.has(kind, REPO) || (self.hub.commits(kind, REPO).len() == 1 && self.hub.files(kind, REPO).is_empty())
    }

    /// Everything is there, by one commit.
    #[track_caller]
    fn is_published(&self, published: &Published) {
        let kind = self.kind.word();
        let mut there = self.hub.files(kind, REPO);
        there.remove(MARKER).expect("no marker");
        assert_eq!(there.keys().collect::<Vec<_>>(), self.files.keys().collect::<Vec<_>>());
        assert!(there == self.files, "bytes differ");
        let commits = self.hub.commits(kind, REPO);
        assert_eq!((commits.len(), &commits[0]), (2, &published.revision), "one commit on top of the first");
        assert!(self.hub.seen().iter().all(|seen| seen.hub || seen.authorization.is_none()), "the token went to another host");
    }

    fn sent(&self, part: &str) -> Vec<String> {
        let seen = self.hub.seen();
        seen.iter()
            .filter(|seen| seen.method == "PUT" && seen.path.contains(part) && seen.status == 200)
            .map(|seen| seen.path.clone())
            .collect()
    }
}

#[test]
fn everything_is_there_after_one_commit_and_nothing_is_sent_twice() {
    for kind in [RepoType::Model, RepoType::Dataset] {
        let bench = Bench { kind, ..Bench::new() };
        bench.hub.page_size(2);
        let published = bench.publish().unwrap();
        bench.is_published(&published);
        assert!(published.changed && published.url.ends_with(&format!("{}alice/voice", kind.prefix())));
        assert_eq!(bench.sent("/part/").len(), 4);
        let stored: usize = bench.hub.seen().iter().filter(|seen| seen.path.contains("/part/")).map(|seen| seen.received).sum();
        assert_eq!(stored, 3 * MIB + 12_345);
        assert_eq!(published.files.iter().find(|file| file.path == "config.json").unwrap().sha256, sha256(b"{}"));

        bench.hub.forget();
        let again = bench.publish().unwrap();
        assert_eq!((again.changed, &again.revision), (false, &published.revision));
        let asked = bench.hub.seen();
        assert!(asked.iter().all(|seen| seen.method == "GET"), "{asked:?}");
    }
}

#[test]
fn what_changes_is_sent_and_what_went_is_taken_away() {
    let mut bench = Bench::new();
    bench.publish().unwrap();
    bench.hub.forget();
    bench.files.remove("empty.txt");
    bench.files.insert("config.json".to_owned(), b"{\"new\":1}".to_vec());
    let published = bench.publish().unwrap();
    assert_eq!((published.sent, bench.hub.commits("model", REPO).len()), (0, 3));
    let there = bench.hub.files("model", REPO);
    assert!(!there.contains_key("empty.txt") && there["config.json"] == bench.files["config.json"]);
    assert!(bench.sent("/").is_empty());
    // A large file that the server has is not sent either, though the repository lacks it.
    bench.files.insert("copy.safetensors".to_owned(), bench.files["model.safetensors"].clone());
    assert_eq!(bench.publish().unwrap().sent, 0);
}

#[test]
fn nothing_of_somebody_elses_is_replaced_unless_asked() {
    let mut bench = Bench::new();
    bench.hub.put("model", REPO, [("README.md", b"mine".to_vec())]);
    let refused = |bench: &Bench, words: &str| {
        let before = bench.hub.files("model", REPO);
        let error = bench.publish().unwrap_err();
        assert!(error.message.contains(words) && error.kind == ErrorKind::Environment, "{}", error.message);
        assert!(error.hint.unwrap().contains("overwrite"));
        assert!(bench.hub.files("model", REPO) == before && bench.sent("/").is_empty());
    };
    refused(&bench, "was not published by voxpipe; it has `README.md`");
    bench.overwrite = true;
    bench.publish().unwrap();
    bench.overwrite = false;
    // What somebody changed afterwards counts as theirs, and only where we would change it.
    bench.hub.put("model", REPO, [("notes.txt", b"a note".to_vec())]);
    assert!(!bench.publish().unwrap().changed);
    bench.hub.put("model", REPO, [("README.md", b"better".to_vec())]);
    bench.hub.forget();
    refused(&bench, "`README.md` in `alice/voice` changed since");
    bench.overwrite = true;
    bench.publish().unwrap();
    bench.overwrite = false;
    assert!(bench.hub.files("model", REPO)["notes.txt"] == b"a note");
    bench.pipeline = "another";
    bench.hub.forget();
    refused(&bench, "was published by the stage `publish` of the pipeline `test`");
}

/// A fault that ends the work, and what is said of it; afterwards all is well.
#[track_caller]
fn fails(fault: Fault, exit: Exit, words: &[&str]) {
    let bench = Bench::new();
    let shown = format!("{fault:?}");
    bench.hub.break_with(fault);
    let error = bench.publish().expect_err(&shown);
    for word in words {
        assert!(error.message.contains(word) || error.hint.as_deref().is_some_and(|hint| hint.contains(word)), "{shown}: {error:?}");
    }
    assert!(Exit::from(&error) == exit && !error.message.contains(WRITE), "{error:?}");
    assert!(bench.untouched(), "{shown}");
    bench.hub.mend();
    bench.is_published(&bench.publish().unwrap());
}

/// A fault that one gets over.
#[track_caller]
fn survives(fault: Fault) -> Bench {
    let bench = Bench::new();
    let shown = format!("{fault:?}");
    bench.hub.break_with(fault);
    bench.is_published(&bench.publish().expect(&shown));
    bench
}

#[test]
fn refusals_are_told_with_what_to_do() {
    let environment = Exit::Environment;
    let status = |path: &str, status| Fault::new("", path, What::Status(status, "")).always();
    fails(status("whoami", 401), environment, &["the Hub does not accept the token from a test", "settings/tokens"]);
    fails(status("repos/create", 402), environment, &["create the repository `alice/voice`", "the Hub asks for payment", "pricing"]);
    fails(status("repos/create", 403), environment, &["the token from a test does not allow this"]);
    fails(status("batch", 403), environment, &["upload large files to `alice/voice`", "does not allow this"]);
    fails(status("preupload", 404), environment, &["no such repository"]);
    fails(status("/commit/", 400), environment, &["publish to `alice/voice`", "the Hub returned 400 Bad Request", "not now"]);
    fails(status("/commit/", 409), environment, &["it already exists, or another change is in progress"]);
    fails(status("/commit/", 412), environment, &["the repository was changed by someone else"]);
    fails(status("/commit/", 413), environment, &["does not accept so much data in one request"]);
    fails(status("/put/", 416), environment, &["upload audio/r 1", "returned 416 Range Not Satisfiable"]);
    fails(status("/tree/", 429), environment, &["the Hub limits the request rate; try again in a few minutes"]);
    fails(status("/put/", 503), environment, &["returned 503 Service Unavailable", "run again to continue"]);
    fails(
        Fault::new("", "/part/", What::CutBefore).always(),
        environment,
        &["upload model.safetensors", "the connection was lost", "run again"],
    );
    fails(Fault::new("", "batch", What::CutHalf).always(), environment, &["the connection was lost"]);
    fails(Fault::new("", "/whoami", What::RetryAfter(429, 100_000)).always(), environment, &["try again in 100000 s"]);
    let nobody = Bench::new().publish_to("http://127.0.0.1:9").unwrap_err();
    assert!(Exit::from(&nobody) == environment && nobody.message.contains("`http://127.0.0.1:9` cannot be reached"), "{nobody:?}");
    assert!(Bench::new().publish_to("no address").unwrap_err().message.contains("HF_ENDPOINT is not a valid URL"));
}

#[test]
fn what_passes_is_waited_for() {
    for path in
        ["whoami", "auth-check", "revision", "create", "/tree/", "preupload", "batch", "/put/", "/part/", "complete", "verify", "/commit/"]
    {
        survives(Fault::new("", path, What::Status(500, "")).times(2));
        survives(Fault::new("", path, What::CutBefore).times(2));
        survives(Fault::new("", path, What::CutAfter));
    }
    survives(Fault::new("GET", "/tree/", What::CutHalf));
    survives(Fault::new("PUT", "/part/", What::Slow(Duration::from_millis(5))));
    let bench = survives(Fault::new("PUT", "/part/", What::RetryAfter(429, 1)));
    assert_eq!(bench.notes.take(), ["the Hub asks to wait 1 s"]);
    // The commit was made, and its answer is lost: it is found, not made again.
    let bench = survives(Fault::new("POST", "/commit/", What::CutAfter));
    assert_eq!(bench.hub.seen().iter().filter(|seen| seen.path.contains("/commit/")).count(), 1);
}

#[test]
fn parts_that_arrived_are_not_sent_again() {
    let bench = Bench::new();
    bench.hub.break_with(Fault::new("PUT", "/part/", What::CutBefore).after(2).always());
    bench.publish().unwrap_err();
    assert_eq!(bench.sent("/part/").len(), 2);
    bench.hub.mend();
    bench.is_published(&bench.publish().unwrap());
    let mut sent = bench.sent("/part/");
    sent.sort();
    sent.dedup();
    assert_eq!((sent.len(), bench.sent("/part/").len()), (4, 4));
    assert!(
        fs::read_dir(bench.dir.path().join("scratch/hub")).unwrap().all(|entry| !entry
            .unwrap()
            .path()
            .to_string_lossy()
            .contains(".parts"))
    );

    // Signed addresses that are refused later are asked for anew.
    let bench = Bench::new();
    bench.hub.break_with(Fault::new("PUT", "/part/", What::CutBefore).after(2).always());
    bench.publish().unwrap_err();
    bench.hub.mend();
    bench.hub.break_with(Fault::new("PUT", "/part/", What::Status(403, "")));
    bench.is_published(&bench.publish().unwrap());
}

#[test]
fn a_listing_that_is_wrong_is_no_publication() {
    // The look at what is there comes after the commit; its digests are turned.
    let bench = Bench::new();
    bench.hub.break_with(Fault::new("GET", "/tree/", What::Wrong).after(1).always());
    let error = bench.publish().unwrap_err();
    assert!(error.message.contains("not the expected JSON"), "{}", error.message);
    bench.hub.mend();
    let again = bench.publish().unwrap();
    assert!(!again.changed);
    bench.is_published(&again);
}

#[test]
fn a_stop_ends_the_waiting() {
    let bench = Bench::new();
    bench.hub.break_with(Fault::new("", "batch", What::RetryAfter(503, 60)).always());
    let begun = Instant::now();
    let error = std::thread::scope(|scope| {
        let stop = &bench.stop;
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(400));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        bench.publish().unwrap_err()
    });
    assert!(error.kind == ErrorKind::Interrupted && begun.elapsed() < Duration::from_secs(10), "{error:?}");
    assert!(bench.untouched());
}

#[test]
fn tokens_may_do_what_they_may() {
    for (token, words) in [
        (READ, "role read) may not write to `alice/voice`: it may only read"),
        (FINE, "role fineGrained) may not write to `alice/voice`: it is outside the token's scope"),
        (BOB, "`alice` is neither this user nor one of their organizations"),
        ("hf_wrong", "does not accept the token"),
    ] {
        let bench = Bench { token, ..Bench::new() };
        let error = bench.publish().unwrap_err();
        assert!(error.message.contains(words) && error.message.contains("from a test"), "{}", error.message);
        assert!(!error.message.contains(token) && error.kind == ErrorKind::Environment);
        assert!(!bench.hub.has("model", REPO));
    }
}
