//! Phrases from the Hub: from multi-gigabyte manifests in Granary's layout, and through the datasets-server API.

use crate::hub_server::{Content, Served, TOKEN, What};
use crate::support::{Ran, Sandbox, files};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use voxpipe::data::phrase::PhraseRow;

const GRANARY: &str = "nvidia/Granary";
const LANGUAGES: &str = "bg cs da de el en es et fi fr hr hu it lt lv mt nl pl pt ro ru sk sl sv uk";
/// An address without a server.
const NOBODY: &str = "http://127.0.0.1:9";
const ROW: u64 = 320;

/// A sentence of made-up words in the script of a language.
fn sentence(language: &str, number: u64) -> String {
    let (consonants, vowels) = match language {
        "bg" | "ru" | "uk" => ("бдклмнпрст", "аеиоу"),
        "el" => ("βδκλμνπρστ", "αειου"),
        _ => ("bdklmnprst", "aeiou"),
    };
    let digest = blake3::hash(format!("{language} {number}").as_bytes());
    let mut dice = digest.as_bytes().iter().map(|byte| usize::from(*byte));
    let mut roll = || dice.next().unwrap_or(3);
    let mut words = Vec::new();
    for _ in 0..5 + roll() % 2 {
        let mut word = String::new();
        for _ in 0..2 {
            word.extend(consonants.chars().nth(roll() % 10));
            word.extend(vowels.chars().nth(roll() % 5));
        }
        words.push(word);
    }
    let text = words.join(" ");
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

/// Row `number` of a manifest; some rows are unsuitable for reading aloud.
fn row(language: &str, corpus: &str, number: u64) -> Vec<u8> {
    let good = sentence(language, number);
    let text = match number % 10 {
        3 => format!("{} 1984.", good.trim_end_matches('.')),
        5 => good.to_lowercase(),
        7 => good.trim_end_matches('.').to_owned(),
        _ => good,
    };
    let duration = if number % 10 == 8 { 31.5 } else { 4.2 };
    let mut row = serde_json::json!({
        "utt_id": format!("{corpus}-{number}"), "text": text, "duration": duration, "source_lang": language,
        "original_source_id": format!("{corpus}-{}", number / 5),
    })
    .to_string();
    if number % 10 == 9 {
        row = row[..row.len() - 9].to_owned();
    }
    assert!(row.len() < ROW as usize, "{row}");
    let mut bytes = row.into_bytes();
    bytes.resize(ROW as usize - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// A manifest of a given size in bytes.
fn manifest(language: &str, corpus: &str, size: u64) -> Content {
    let (language, corpus) = (language.to_owned(), corpus.to_owned());
    Content::made(size / ROW * ROW, move |range| {
        let rows: Vec<u8> = (range.start / ROW..range.end.div_ceil(ROW)).flat_map(|number| row(&language, &corpus, number)).collect();
        rows[(range.start % ROW) as usize..][..(range.end - range.start) as usize].to_vec()
    })
}

/// A repository with gigabytes in all of Granary's languages, and other files.
fn granary() -> Served {
    let mut files = BTreeMap::from([("README.md".to_owned(), "---\nlicense: cc-by-4.0\n---\n# Granary\n".into())]);
    for language in LANGUAGES.split(' ') {
        let mut add =
            |path: String, corpus: &str, size| files.insert(format!("{language}/{corpus}/{path}"), manifest(language, corpus, size));
        if language != "ru" {
            add(format!("{language}_asr.jsonl"), "voxpopuli", 2 << 30);
            add(format!("{language}_ast-en.jsonl"), "voxpopuli", 3 << 30);
        }
        if !["mt", "sl"].contains(&language) {
            add(format!("{language}_asr_{language}000.jsonl"), "yodas", 5 << 30);
            add(format!("{language}_asr_{language}100.jsonl"), "yodas", 9 << 30);
        }
    }
    Served::start(GRANARY, files)
}

fn run(sandbox: &Sandbox, address: &str, more: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = sandbox.command(args);
    command.env("HF_ENDPOINT", address).env("HF_HOME", sandbox.path("hf")).env("HF_TOKEN", TOKEN).envs(more.iter().copied());
    Ran::of(command.output().unwrap())
}

/// A pipeline with one stage for each of the given settings.
fn pipeline(stages: &[(&str, &str)]) -> String {
    let stage = |(name, with): &(&str, &str)| format!("[stage.{name}]\nuses = \"phrases\"\nwith = {{ {with} }}\n");
    format!("schema = 1\n[pipeline]\nname = \"p\"\n{}", stages.iter().map(stage).collect::<String>())
}

fn phrases(sandbox: &Sandbox, stage: &str) -> Vec<PhraseRow> {
    let text = sandbox.read(&format!(".voxpipe/latest/p/{stage}/phrases.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn report(sandbox: &Sandbox, stage: &str) -> Value {
    serde_json::from_str(&sandbox.read(&format!(".voxpipe/latest/p/{stage}/report.json"))).unwrap()
}

#[test]
fn every_language_of_granary_comes_from_gigabytes_with_little_read() {
    let (hub, sandbox) = (granary(), Sandbox::new());
    for language in LANGUAGES.split(' ') {
        hub.forget();
        sandbox.pipeline(&pipeline(&[("it", &format!("language = \"{language}\", source = \"granary\", count = 100"))]));
        let ran = run(&sandbox, &hub.address, &[], &["run"]).exits(0);
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(TOKEN));
        assert!(hub.sent() <= 2 << 20, "{language}: {} bytes of files", hub.sent());
        assert!(hub.fetched().iter().all(|seen| seen.authorization.is_none() && !seen.path.contains("ast")), "{:?}", hub.fetched());
        assert!(hub.asked().iter().all(|seen| seen.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"))));

        // Every phrase is at the location that its row names.
        let (found, report) = (phrases(&sandbox, "it"), report(&sandbox, "it"));
        assert_eq!((found.len(), found.iter().map(|phrase| &phrase.id).collect::<BTreeSet<_>>().len()), (100, 100), "{language}");
        let (mut corpora, mut recordings) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
        for phrase in &found {
            let words: Vec<&str> = phrase.source.split(' ').collect();
            let [name, path, "byte", at] = words[..] else { panic!("{}", phrase.source) };
            assert_eq!(name, format!("{GRANARY}@{}", hub.commit));
            let (corpus, at): (_, u64) = (path.split('/').nth(1).unwrap(), at.parse().unwrap());
            assert_eq!(at % ROW, 0);
            let line: Value = serde_json::from_slice(row(language, corpus, at / ROW).trim_ascii()).unwrap();
            assert_eq!(line["text"], phrase.text.as_str());
            assert_eq!((phrase.language.as_str(), &line["duration"]), (language, &Value::from(4.2)));
            *corpora.entry(corpus.to_owned()).or_default() += 1;
            *recordings.entry(line["original_source_id"].to_string()).or_default() += 1;
        }
        assert!(recordings.values().all(|count| *count <= 2), "{recordings:?}");
        let several = !["ru", "mt", "sl"].contains(&language);
        assert_eq!(corpora.len(), if several { 2 } else { 1 }, "{language}");
        assert_eq!(report["chosen_by_corpus"], serde_json::to_value(&corpora).unwrap());
        assert_eq!((&report["commit"], &report["licence"]), (&hub.commit.as_str().into(), &"cc-by-4.0".into()));
        for reason in [
            "with digits",
            "beginning in the middle of a sentence",
            "without the end of a sentence",
            "taking too long to say",
            "no JSON object",
            "from a recording that others are from",
        ] {
            let rejected = &report["rejected"][reason];
            assert!(rejected["count"].as_u64() > Some(9) && rejected["examples"][0].is_string(), "{language}, {reason}: {rejected}");
        }
        assert_eq!(report["bytes_read"], hub.sent());
    }
}

#[test]
fn the_same_commit_and_seed_are_the_same_bytes_and_are_asked_for_once() {
    let (hub, sandbox) = (granary(), Sandbox::new());
    let with = "language = \"de\", source = \"granary\", count = 40";
    sandbox.pipeline(&pipeline(&[("it", with)]));
    run(&sandbox, &hub.address, &[], &["run"]).exits(0);
    let made = files(&sandbox.path(".voxpipe/latest/p/it"));
    // The same selection in another project; a different one with another seed.
    let other = Sandbox::new();
    other.pipeline(&pipeline(&[("it", with)]));
    run(&other, &hub.address, &[], &["run"]).exits(0);
    assert_eq!(files(&other.path(".voxpipe/latest/p/it")), made);
    let seed = |text: String| text.replace("name = \"p\"", "name = \"p\"\nseed = 99");
    other.pipeline(&seed(pipeline(&[("it", with)])));
    run(&other, &hub.address, &[], &["run"]).exits(0);
    assert_ne!(files(&other.path(".voxpipe/latest/p/it")), made);

    // A forced rerun uses the downloaded blocks: no request, with or without network.
    hub.forget();
    for (address, more) in [(hub.address.as_str(), &[][..]), (NOBODY, &[]), (NOBODY, &[("HF_HUB_OFFLINE", "1")])] {
        run(&sandbox, address, more, &["run", "--force", "it"]).exits(0);
        assert_eq!(files(&sandbox.path(".voxpipe/latest/p/it")), made);
    }
    assert_eq!(hub.asked().len() + hub.fetched().len(), 0);
    // Offline, a missing source is an error; there is no fallback to another one.
    sandbox.pipeline(&pipeline(&[("it", &with.replace("de", "fr"))]));
    let ran = run(&sandbox, NOBODY, &[("HF_HUB_OFFLINE", "1")], &["run"]);
    assert_ne!(ran.code, Some(0));
    ran.complains("the list of `fr`").complains("network access is disabled");
}

#[test]
fn a_lock_file_pins_the_commit_of_granary() {
    let (hub, sandbox) = (granary(), Sandbox::new());
    sandbox.pipeline(&pipeline(&[("it", "language = \"it\", source = \"granary\", count = 10")]));
    run(&sandbox, &hub.address, &[], &["lock"]).exits(0);
    let (lock, commit) = (sandbox.read("pipeline.lock"), hub.commit.as_str());
    assert!(lock.contains(&format!("repository = \"datasets/{GRANARY}\"\nrevision = \"main\"\ncommit = \"{commit}\"")), "{lock}");
    let next = hub.move_on();
    hub.forget();
    run(&sandbox, &hub.address, &[], &["run"]).exits(0);
    assert!(phrases(&sandbox, "it")[0].source.contains(commit));
    assert!(hub.asked().iter().all(|seen| seen.path.contains(commit)), "{:?}", hub.asked());
    // `lock --update` moves to the new commit, and then the step reruns.
    run(&sandbox, &hub.address, &[], &["lock", "--update", "all"]).exits(0);
    run(&sandbox, &hub.address, &[], &["run"]).exits(0);
    assert!(phrases(&sandbox, "it")[0].source.contains(&next));
    // A commit in the pipeline file needs no lockfile entry.
    sandbox.pipeline(&pipeline(&[("it", &format!("language = \"it\", source = \"granary\", count = 9, revision = \"{commit}\""))]));
    run(&sandbox, &hub.address, &[], &["run"]).exits(0);
    assert!(phrases(&sandbox, "it").iter().all(|phrase| phrase.source.contains(commit)));
}

#[test]
fn a_corpus_filters_and_coverage_can_be_asked_for() {
    let (hub, sandbox) = (granary(), Sandbox::new());
    let with = "language = \"cs\", source = \"granary\", count = 20";
    sandbox.pipeline(&pipeline(&[
        ("plain", with),
        ("corpus", &format!("{with}, corpus = \"yodas\"")),
        ("short", &format!("{with}, filters = {{ max_words = 5, digits = true, per_source = 1 }}")),
        ("cover", &format!("{with}, cover = true")),
        ("pack", "language = \"en\", count = 200, filters = { max_words = 6 }"),
    ]));
    run(&sandbox, &hub.address, &[], &["run"]).exits(0);
    assert!(phrases(&sandbox, "corpus").iter().all(|phrase| phrase.source.contains("cs/yodas/")));
    let short = phrases(&sandbox, "short");
    assert!(short.iter().all(|phrase| phrase.text.split(' ').count() <= 5));
    assert!(report(&sandbox, "short")["rejected"]["with too many words"]["count"].as_u64() > Some(0));
    assert!(report(&sandbox, "short")["rejected"].get("with digits").is_none());
    let pairs = |stage: &str| {
        let texts: Vec<String> = phrases(&sandbox, stage).into_iter().map(|phrase| phrase.text.to_lowercase()).collect();
        let letters: Vec<char> = texts.join(" ").chars().collect();
        letters.windows(2).map(|pair| (pair[0], pair[1])).collect::<BTreeSet<_>>().len()
    };
    assert!(pairs("cover") > pairs("plain"), "{} and {}", pairs("cover"), pairs("plain"));
    let pack = phrases(&sandbox, "pack");
    assert!(!pack.is_empty() && pack.len() < 100 && pack.iter().all(|phrase| phrase.text.split(' ').count() <= 6), "{}", pack.len());
    assert!(report(&sandbox, "pack")["rejected"]["with too many words"]["count"].as_u64() > Some(10));
}

#[test]
fn what_cannot_be_had_is_an_error_and_never_something_else() {
    let hub = granary();
    let fails = |with: &str, says: &str| {
        let sandbox = Sandbox::new();
        sandbox.pipeline(&pipeline(&[("it", with)]));
        let ran = run(&sandbox, &hub.address, &[], &["run"]);
        assert_ne!(ran.code, Some(0), "{with}");
        assert!(!sandbox.path(".voxpipe/latest/p/it/phrases.jsonl").exists());
        assert!(!ran.stderr.contains(TOKEN));
        ran.complains(says)
    };
    fails("language = \"ja\", source = \"granary\"", "does not have the language `ja`").complains("bg, cs, da");
    fails("language = \"mt\", source = \"granary\", corpus = \"yodas\"", "has no corpus `yodas` for `mt`")
        .complains("available: voxpopuli");
    fails("language = \"de\", source = \"granary\", revision = \"old\"", "the repository has no such revision");
    fails("language = \"de\", source = \"granary\", repo = \"nvidia/Other\"", "there is no such repository");
    fails("language = \"de\", source = \"granary\", filters = { min_words = 19 }", "the filters reject every sentence")
        .complains("too few words");
    let path = "resolve";
    hub.break_with(path, 99, What::Status(401, ""));
    fails("language = \"de\", source = \"granary\"", "the Hub does not accept the token");
    hub.break_with(path, 99, What::Status(403, "GatedRepo"));
    fails("language = \"de\", source = \"granary\"", "may not read it: it is gated or private");
    hub.break_with(path, 99, What::RetryAfter(429, 4000));
    fails("language = \"de\", source = \"granary\"", "the Hub limits the request rate; try again in 4000 s");
    let sandbox = Sandbox::new();
    sandbox.pipeline(&pipeline(&[("it", "language = \"de\", source = \"granary\"")]));
    let ran = run(&sandbox, NOBODY, &[], &["run"]);
    assert_ne!(ran.code, Some(0));
    ran.complains("`http://127.0.0.1:9` cannot be reached");
}

#[test]
fn a_hub_in_trouble_is_asked_again_as_it_wishes() {
    let hub = granary();
    let with = "language = \"sv\", source = \"granary\", count = 10";
    let made = |path, times, what| {
        let sandbox = Sandbox::new();
        sandbox.pipeline(&pipeline(&[("it", with)]));
        hub.break_with(path, times, what);
        let begun = std::time::Instant::now();
        run(&sandbox, &hub.address, &[], &["run"]).exits(0);
        (files(&sandbox.path(".voxpipe/latest/p/it")), begun.elapsed())
    };
    let (whole, _) = made("nothing", 0, What::CutHalf);
    hub.forget();
    // After an interrupted download only the rest is requested.
    assert_eq!(made("asr", 1, What::CutHalf).0, whole);
    assert_eq!(made("/api/", 2, What::Status(503, "")).0, whole);
    let (late, took) = made("resolve", 1, What::RetryAfter(429, 2));
    assert_eq!(late, whole);
    assert!(took >= std::time::Duration::from_secs(2), "{took:?}");
}

#[test]
fn rows_of_the_viewer_are_an_alternative() {
    let rows: String =
        (0..1000).map(|number| String::from_utf8(row("pl", "x", number)).unwrap()).filter(|row| row.trim_end().ends_with('}')).collect();
    let files = BTreeMap::from([("rows/pl_voxpopuli-asr.jsonl".to_owned(), rows.into())]);
    let (hub, sandbox) = (Served::start("a/set", files), Sandbox::new());
    let with = format!(
        "language = \"pl\", source = \"rows\", repo = \"a/set\", config = \"pl_voxpopuli\", split = \"asr\", count = 30, server = \"{}\"",
        hub.address
    );
    sandbox.pipeline(&pipeline(&[("it", &with)]));
    run(&sandbox, &hub.address, &[], &["run"]).exits(0);
    let found = phrases(&sandbox, "it");
    assert_eq!(found.len(), 30);
    assert!(
        found.iter().all(|phrase| phrase.source.starts_with(&format!("a/set@{} pl_voxpopuli/asr row ", hub.commit))),
        "{}",
        found[0].source
    );
    assert!(report(&sandbox, "it")["rejected"]["with digits"]["count"].as_u64() > Some(0));
    // A forced rerun uses the downloaded rows.
    hub.forget();
    run(&sandbox, NOBODY, &[], &["run", "--force", "it"]).exits(0);
    assert_eq!((phrases(&sandbox, "it"), hub.asked().len()), (found, 0));
    // A datasets-server with an older commit is refused, and so is a wrong split.
    sandbox.pipeline(&pipeline(&[("it", &with.replace("asr", "train"))]));
    let ran = run(&sandbox, &hub.address, &[], &["run"]);
    assert_ne!(ran.code, Some(0));
    ran.complains("rows 0 to 100 of `a/set` (`pl_voxpopuli`, `train`)");
    let late = Sandbox::new();
    late.pipeline(&pipeline(&[("it", &with.replace("count = 30", &format!("count = 30, revision = \"{}\"", hub.commit)))]));
    let next = hub.move_on();
    let ran = run(&late, &hub.address, &[], &["run"]);
    assert_ne!(ran.code, Some(0));
    ran.complains(&format!("has commit {next} of `a/set`"));
}
