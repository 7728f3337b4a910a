//! `command`, with the shell as the program.

use super::*;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use voxpipe::error::ErrorKind;
use voxpipe::stages::command::Command;

fn shell(script: &str) -> Value {
    json!({"run": ["sh", "-c", script]})
}

#[test]
fn a_program_reads_its_inputs_and_writes_its_result() {
    let mut bench = Bench::new();
    let clips = bench.folder.path().join("clips with spaces");
    fs::create_dir(&clips).unwrap();
    fs::write(clips.join("a.txt"), "hello").unwrap();
    bench.give("clips", artifact(ArtifactKind::Files, &clips));
    bench.file("tool.sh", "cp \"$1/a.txt\" \"$2/b.txt\"; echo \"$3 $*\" | grep -c spaces; pwd > \"$2/where\"; cat");
    let made = bench.made::<Command>(json!({"run": ["sh", "tool.sh", "${from.clips}", "${out}", "seed=${seed}"], "code": ["tool.sh"]}));
    assert_eq!(made.summary, "`sh` made 2 files and folders");
    assert_eq!(bench.out("b.txt"), "hello");
    assert_eq!(bench.out("where").trim_end(), bench.cx.root.to_str().unwrap());
    assert_eq!(bench.heard(), "note: 1\n");
}

#[test]
fn progress_and_metrics_are_told_as_such() {
    let mut bench = Bench::new();
    let made = bench.made::<Command>(shell(
        r#"echo '{"progress":{"done":3,"total":10,"unit":"files"}}'; echo '{"metrics":{"snr":12.5},"step":4}'; echo '{"other":1}'; echo oops >&2"#,
    ));
    assert_eq!(made.metrics, BTreeMap::from([("snr".to_owned(), 12.5)]));
    let events = bench.events();
    assert!(events.contains(&Event::Progress { stage: "it".into(), done: 3, total: 10, unit: "files".into(), detail: String::new() }));
    assert!(events.contains(&Event::Metrics { stage: "it".into(), step: 4, values: made.metrics }));
    let heard = bench.heard();
    assert!(heard.contains("note: {\"other\":1}\n") && heard.contains("note: oops\n"), "{heard}");
}

#[test]
fn a_failure_names_its_exit_code_and_quotes_the_last_lines() {
    let mut bench = Bench::new();
    let error = bench.error::<Command>(shell("for i in $(seq 30); do echo line $i; done; exit 3"));
    says(&error, &["`sh` failed with exit code 3; its last 20 lines:\n  line 11\n", "\n  line 30"]);
    assert_eq!(error.kind, ErrorKind::Other);
    let error = bench.error::<Command>(shell("kill -9 $$"));
    says(&error, &["`sh` was killed by signal 9; it printed nothing"]);
    let error = bench.error::<Command>(json!({"run": ["no-such-program-here"]}));
    says(&error, &["cannot start `no-such-program-here`"]);
    assert_eq!(error.kind, ErrorKind::Environment);
}

#[test]
fn long_lines_are_cut_and_counted() {
    let mut bench = Bench::new();
    bench.made::<Command>(shell("head -c 100000 /dev/zero | tr '\\0' x; echo; echo after"));
    let heard = bench.heard();
    let lines: Vec<_> = heard.lines().collect();
    assert_eq!(lines.len(), 2, "{heard}");
    assert!(lines[0].ends_with("x … (98000 more bytes)"), "{}", &lines[0][lines[0].len() - 60..]);
    assert_eq!(lines[1], "note: after");
}

#[test]
fn placeholders_that_stand_for_nothing_are_errors() {
    let mut bench = Bench::new();
    let error = bench.error::<Command>(json!({"run": ["ls", "${from.clips}"]}));
    says(&error, &["`${from.clips}` in `run` of stage `it` has no such input"]);
    for name in ["one", "two"] {
        let path = bench.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        bench.give("clips", artifact(ArtifactKind::Files, &path));
    }
    says(&bench.error::<Command>(json!({"run": ["ls", "${from.clips}"]})), &["refers to 2 folders"]);
    bench.made::<Command>(json!({"run": ["sh", "-c", "echo $1 > $0/x", "${out}", "${from.clips.1}"]}));
    assert!(bench.out("x").trim_end().ends_with("/two"));
    says(&bench.error::<Command>(json!({"run": ["ls", "${from.clips.2}"]})), &["`${from.clips.2}`", "has no such input"]);
}

#[test]
fn a_promised_kind_is_checked() {
    let mut bench = Bench::new();
    let clips = |script: &str| json!({"run": ["sh", "-c", script, "${out}"], "output": "clips"});
    says(&bench.error::<Command>(clips("true")), &["succeeded, but its result does not match", "`clips.jsonl` is missing"]);
    says(&bench.error::<Command>(clips("echo '{\"text\":' > $0/clips.jsonl")), &["clips.jsonl:1: "]);
    let row = r#"echo '{"audio_path":"audio/a.wav","text":"a"}' > $0/clips.jsonl"#;
    says(&bench.error::<Command>(clips(row)), &["`audio/a.wav` is missing"]);
    let made = bench.made::<Command>(clips(&format!("{row}; mkdir $0/audio; touch $0/audio/a.wav")));
    assert_eq!(made.summary, "`sh` made 1 clips");
}

#[test]
fn stopping_ends_the_program_and_all_it_started() {
    let mut bench = Bench::new();
    let stop = Arc::clone(&bench.cx.stop);
    let started = Instant::now();
    thread_after(Duration::from_millis(300), move || stop.store(true, Ordering::Relaxed));
    let error = bench.error::<Command>(shell("sleep 60 & echo $!; wait"));
    assert_eq!(error.kind, ErrorKind::Interrupted);
    assert!(started.elapsed() < Duration::from_secs(10));
    let heard = bench.heard();
    let pid = heard.trim().strip_prefix("note: ").unwrap();
    assert!(gone(pid), "{pid} is still there");
}

#[test]
fn nothing_a_finished_program_left_running_survives() {
    let mut bench = Bench::new();
    let started = Instant::now();
    bench.made::<Command>(shell("sleep 60 & echo $!"));
    assert!(started.elapsed() < Duration::from_secs(10));
    let heard = bench.heard();
    assert!(gone(heard.trim().strip_prefix("note: ").unwrap()));
}

#[test]
fn an_environment_variable_that_is_asked_for_must_be_there() {
    let error = Bench::new().error::<Command>(json!({"run": ["true"], "env": ["VOXPIPE_NO_SUCH_TOKEN"]}));
    says(&error, &["`VOXPIPE_NO_SUCH_TOKEN`", "is not set"]);
    assert_eq!(error.kind, ErrorKind::Environment);
}

fn thread_after(wait: Duration, then: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(wait);
        then();
    });
}

/// Waits briefly and returns whether a process has ended; a zombie counts as ended.
fn gone(pid: &str) -> bool {
    (0..100).any(|_| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ended = state.is_empty() || state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        if !ended {
            std::thread::sleep(Duration::from_millis(20));
        }
        ended
    })
}
