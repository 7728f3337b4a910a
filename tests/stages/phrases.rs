//! `phrases`: embedded packs, local files, and error messages.

use super::*;
use voxpipe::data::phrase::PhraseRow;
use voxpipe::stages::phrases::Phrases;

#[test]
fn a_seeded_choice_from_the_pack_keeps_ids_and_order() {
    let mut bench = Bench::new();
    let made = bench.made::<Phrases>(json!({"language": "es", "count": 12}));
    assert_eq!(made.metrics["phrases"], 12.0);
    let phrases: Vec<PhraseRow> = bench.rows("phrases.jsonl");
    let ids: Vec<_> = phrases.iter().map(|phrase| phrase.id.clone()).collect();
    assert!(ids.is_sorted() && ids[0].starts_with("es-0") && ids.len() == 12, "{ids:?}");
    assert!(phrases.iter().all(|phrase| phrase.source == "embedded pack es, version 1" && phrase.language == "es"));
    let first = tree(&bench.cx.out);
    bench.made::<Phrases>(json!({"language": "es", "count": 12}));
    assert_eq!(tree(&bench.cx.out), first, "the same seed chooses the same phrases");
    bench.cx.seed = 8;
    bench.made::<Phrases>(json!({"language": "es", "count": 12}));
    assert_ne!(tree(&bench.cx.out), first);
    bench.made::<Phrases>(json!({"language": "en", "count": 100_000}));
    assert!(bench.heard().contains("`count` is 100000, but only 110 are available: using all of them"));
}

#[test]
fn a_file_may_be_text_or_a_table() {
    let mut bench = Bench::new();
    bench.file("a.txt", "\u{feff}Good  morning.\n\nHow are you?\r\ngood MORNING\n");
    let with = |file: &str| json!({"language": "en", "source": "file", "file": file});
    bench.made::<Phrases>(with("a.txt"));
    let phrases: Vec<PhraseRow> = bench.rows("phrases.jsonl");
    assert_eq!(phrases[0].text, "Good morning.");
    assert_eq!((phrases[1].id.as_str(), phrases[1].source.as_str()), ("en-0002", "a.txt, line 3"));
    assert_eq!(bench.json("report.json")["duplicates"], json!([{"id": "en-0003", "text": "good MORNING", "same_as": "en-0001"}]));
    assert!(bench.heard().contains("warning: 1 sentence skipped as duplicate: `good MORNING`\n"));

    bench.file("a.csv", "id,text\nhello,\"Hello, you\"\nbye,Good bye\n");
    bench.made::<Phrases>(with("a.csv"));
    let phrases: Vec<PhraseRow> = bench.rows("phrases.jsonl");
    assert_eq!((phrases[0].id.as_str(), phrases[0].text.as_str()), ("hello", "Hello, you"));

    bench.file("a.jsonl", "{\"text\":\"Hello\"}\n{\"text\":\n");
    says(&bench.error::<Phrases>(with("a.jsonl")), &["a.jsonl:2: "]);
    bench.file("a.jsonl", "{\"text\":\"Hello\"}\n{\"words\":\"x\"}\n");
    says(&bench.error::<Phrases>(with("a.jsonl")), &["a.jsonl:2: `text` is missing; the row has: words"]);
    bench.file("a.jsonl", "{\"text\":\" \"}\n");
    says(&bench.error::<Phrases>(with("a.jsonl")), &["a.jsonl:1: `text` is empty"]);
    bench.file("a.csv", "text,x\na,b\nc\n");
    says(&bench.error::<Phrases>(with("a.csv")), &["a.csv:3: the row has 1 columns, the header has 2"]);
    bench.file("a.csv", "x,text\na,\"b\nc,d\n");
    says(&bench.error::<Phrases>(with("a.csv")), &["a.csv:2: probably an unclosed double quote"]);
    bench.file("a.csv", "id,text\n../x,b\n");
    says(&bench.error::<Phrases>(with("a.csv")), &["a.csv:2: the id `../x` is not a valid file name"]);
    bench.file("a.tsv", b"text\n\xc3\xa4 and \xc3\xb6\n\xff\n");
    says(&bench.error::<Phrases>(with("a.tsv")), &["a.tsv:3: it has bytes that are no UTF-8"]);
    bench.file("a.txt", "\n");
    says(&bench.error::<Phrases>(with("a.txt")), &["a.txt: no sentences found"]);
    assert!(bench.error::<Phrases>(with("none.txt")).message.contains("cannot read `none.txt`"));
}

#[test]
fn settings_that_cannot_work_are_complained_about() {
    for (with, path, says) in [
        (json!({"language": "ja"}), "language", "no embedded pack for `ja` | packs exist for: "),
        (json!({"language": "English"}), "language", "did you mean `en`?"),
        (json!({"language": "es-MX"}), "language", "did you mean `es`?"),
        (json!({"language": "Spanisch"}), "language", "did you mean `es`?"),
        (json!({"language": "xyz", "source": "file", "file": "a"}), "language", "is not an ISO 639-1 language code"),
        (json!({"language": "fr", "source": "file"}), "source", "needs a `file`"),
        (json!({"language": "en", "file": "a.txt"}), "file", "`source` does not use it"),
        (json!({"language": "en", "count": 0}), "count", "`count` must be at least 1"),
        (json!({"language": "en", "source": "granary", "file": "a.txt"}), "file", "`source` does not use it"),
        (json!({"language": "en", "corpus": "yodas"}), "corpus", "`source` does not use it | write `source = \"granary\"`"),
        (json!({"language": "en", "source": "granary", "split": "asr"}), "split", "write `source = \"rows\"`"),
        (
            json!({"language": "en", "source": "granary", "repo": "x"}),
            "repo",
            "not a valid name for a dataset on the Hub | write it as `owner/name`",
        ),
        (json!({"language": "en", "source": "granary", "revision": "../x"}), "revision", "cannot be a revision"),
        (json!({"language": "en", "source": "rows"}), "source", "needs a `repo`"),
        (json!({"language": "en", "filters": {"max_words": 2}}), "filters.max_words", "`min_words` 3 and `max_words` 2 exclude"),
        (json!({"language": "en", "filters": {"max_seconds": 1}}), "filters.max_seconds", "`min_seconds` 2 and `max_seconds` 1 exclude"),
    ] {
        let found = complaints::<Phrases>(with.clone());
        assert_eq!(found.len(), 1, "{with}: {found:?}");
        assert!(found[0].0 == path && found[0].1.contains(says), "{with}: {found:?}");
    }
    assert!(complaints::<Phrases>(json!({"language": "fr", "source": "file", "file": "a.txt"})).is_empty());
}
