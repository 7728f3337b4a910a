//! Garbage collection, the cache commands, export and import of runs, and the shared cache.

use crate::support::{Ran, Sandbox, files};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PIPELINE: &str = r#"
schema = 1
[pipeline]
name = "p"
[params]
word = "one"
[stage.big]
uses = "command"
with = { run = ["sh", "big.sh", "${params.word}", "${out}"], code = ["big.sh"] }
[stage.small]
uses = "command"
from = { big = "big" }
with = { run = ["sh", "-c", "echo small >> ran; head -c 3 $0/big > $1/small; mkdir $1/sub; echo x > $1/sub/run.sh; chmod 755 $1/sub/run.sh", "${from.big}", "${out}"] }
"#;

/// A project with a 100 kB result per value of `params.word`.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(PIPELINE).file("big.sh", "echo big >> ran\nyes $1 | head -c 100000 > $2/big\n");
    sandbox
}

fn run(sandbox: &Sandbox, word: &str) -> String {
    sandbox.run(&["run", "--json", "--set", &format!("word={word}")]).exits(0).json()["run"].as_str().unwrap().to_owned()
}

/// The steps that ran since the last call.
fn ran(sandbox: &Sandbox) -> String {
    let ran = fs::read_to_string(sandbox.path("ran")).unwrap_or_default();
    let _ = fs::remove_file(sandbox.path("ran"));
    ran.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The words whose 100 kB result is in the store.
fn kept(sandbox: &Sandbox) -> String {
    let mut words: Vec<_> = files(&sandbox.path(".voxpipe/store"))
        .into_iter()
        .filter(|(name, _)| name.ends_with("/big"))
        .map(|(_, bytes)| String::from_utf8_lossy(&bytes).lines().next().unwrap().to_owned())
        .collect();
    words.sort();
    words.join(" ")
}

#[test]
fn what_nothing_needs_is_removed_and_the_rest_stays() {
    let sandbox = project();
    let runs: Vec<_> = ["one", "two", "three", "four"].iter().map(|word| run(&sandbox, word)).collect();
    sandbox.run(&["cache", "pin", &runs[0]]).exits(0);
    let before = files(&sandbox.path(".voxpipe"));
    let dry = sandbox.run(&["gc", "--dry-run", "--keep-runs", "1", "--json"]).exits(0).json();
    assert_eq!(files(&sandbox.path(".voxpipe")), before, "a dry run changes nothing");
    let removed = |told: &Value| -> Vec<String> {
        told["removed"].as_array().unwrap().iter().map(|row| row["of"].as_str().unwrap().to_owned()).collect()
    };
    let names = removed(&dry);
    assert!(names[0].starts_with(&format!("big (command) of run {}", runs[1])), "the one used longest ago goes first: {names:?}");
    assert!(names.iter().any(|name| name.starts_with(&format!("big (command) of run {}", runs[2]))), "{names:?}");
    let told = sandbox.run(&["gc", "--keep-runs", "1", "--json"]).exits(0).json();
    assert_eq!((removed(&told), &told["after"], &told["dry_run"]), (names, &dry["after"], &json!(false)));
    assert_eq!(kept(&sandbox), "four one", "the newest run and the pinned one");
    // Removed results are recreated, and the history is still available.
    ran(&sandbox);
    let plan = sandbox.run(&["plan", "--set", "word=two"]).exits(0).stdout;
    assert!(plan.contains("its stored result is missing"), "{plan}");
    run(&sandbox, "one");
    assert_eq!(ran(&sandbox), "");
    run(&sandbox, "two");
    assert!(ran(&sandbox).starts_with("big"));
    assert!(sandbox.run(&["diff", &runs[1], &runs[2]]).exits(0).stdout.contains("setting `run.2` \"two\" → \"three\""));
    sandbox.run(&["cache", "unpin", &runs[0]]).exits(0);
    sandbox.run(&["cache", "unpin", &runs[0]]).exits(2).complains("is not pinned").complains("no run is pinned");
    sandbox.run(&["gc", "--keep-runs", "0"]).exits(0);
    assert_eq!(kept(&sandbox), "two", "what the pipeline stands at stays");
}

#[test]
fn gc_stops_at_the_size_it_is_given() {
    let sandbox = project();
    for word in ["one", "two", "three", "four"] {
        run(&sandbox, word);
    }
    let used = sandbox.run(&["cache", "du", "--json"]).exits(0).json()["bytes"].as_u64().unwrap();
    let told = sandbox.run(&["gc", "--keep-runs", "1", "--max-size", &format!("{}B", used - 150_000)]).exits(0).stdout;
    assert_eq!(kept(&sandbox), "four three", "{told}");
    let file = |size: &str| format!("{PIPELINE}[cache]\nmax_size = \"{size}\"\n");
    sandbox.pipeline(&file("50kB"));
    let told = sandbox.run(&["gc"]).exits(0).stdout;
    assert!(told.contains("still above the limit of 50.0 kB: the rest is in use by pipelines, the newest 5 runs"), "{told}");
    sandbox.pipeline(&file("much"));
    sandbox.run(&["gc"]).exits(2).complains("\"much\" is not a size with a unit").complains("20GB");
    sandbox.run(&["gc", "--max-size", "20"]).exits(2).complains("write a size with a unit");
}

#[test]
fn checkpoints_and_published_models_outlive_gc() {
    let sandbox = project();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[params]\nn = 1\n[stage.long]\nuses = \"command\"\n\
         with = { run = [\"sh\", \"-c\", \"echo $0 > $1/step; exit 1\", \"${params.n}\", \"${scratch}\", \"${out}\"] }\n",
    );
    sandbox.run(&["run"]).exits(1);
    sandbox.run(&["run", "--set", "n=2"]).exits(1);
    let steps = |sandbox: &Sandbox| {
        let found = files(&sandbox.path(".voxpipe/work"));
        found.values().map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let told = sandbox.run(&["gc"]).exits(0).stdout;
    assert!(told.contains("unfinished stage"), "{told}");
    assert_eq!(steps(&sandbox), "2", "the next run goes on with it");
}

#[test]
fn damage_is_found_and_mended() {
    let sandbox = project();
    run(&sandbox, "one");
    let told = sandbox.run(&["cache", "verify"]).exits(0).stdout;
    assert_eq!(told, "2 results verified, 0 damaged\n");
    let big = fs::canonicalize(sandbox.path(".voxpipe/latest/p/big/big")).unwrap();
    fs::set_permissions(&big, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&big, "other").unwrap();
    let told = sandbox.run(&["cache", "verify", "--json"]).exits(1).json();
    assert_eq!((&told["results"], &told["damaged"][0]["problem"]), (&json!(2), &json!("1 changed (big)")));
    assert!(big.exists(), "looking moves nothing");
    let told = sandbox.run(&["cache", "verify", "--repair"]).exits(1).stdout;
    assert!(told.contains("big (command) of run") && told.contains("the next run recreates it"), "{told}");
    ran(&sandbox);
    run(&sandbox, "one");
    assert_eq!(ran(&sandbox), "big");
    sandbox.run(&["cache", "verify"]).exits(0);
    let du = sandbox.run(&["cache", "du", "--json"]).exits(0).json();
    assert_eq!((&du["parts"]["damaged"], du["results"].as_array().unwrap().len()), (&json!(5), 2));
    assert!(sandbox.run(&["cache", "du"]).exits(0).stdout.contains("100.0 kB  big (command) of run"));
}

#[test]
fn gc_waits_for_nobody() {
    let sandbox = project();
    sandbox.file("big.sh", "echo > begun; sleep 60\n");
    let mut child = sandbox.start(&["run"], "begun");
    for args in [&["gc"] as &[&str], &["cache", "pin", "latest"], &["cache", "verify", "--repair"]] {
        let told = sandbox.run(args).exits(3).complains("another run is active in this project");
        assert!(!told.stderr.contains("--wait"), "only `run` and `sweep` can wait: {}", told.stderr);
    }
    sandbox.run(&["gc", "--dry-run"]).exits(0);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_travels_as_one_file() {
    let (here, there) = (project(), project());
    run(&here, "one");
    let second = run(&here, "two");
    here.run(&["export", "latest", "run.tar.zst"]).exits(0);
    let bytes = fs::read(here.path("run.tar.zst")).unwrap();
    here.run(&["export", "latest", "run.tar.zst"]).exits(2).complains("already exists");
    here.run(&["export", &second, "run.tar.zst", "--force"]).exits(0);
    assert_eq!(fs::read(here.path("run.tar.zst")).unwrap(), bytes, "the same run makes the same archive");
    let archive = here.path("run.tar.zst").display().to_string();
    let told = there.run(&["import", &archive, "--json"]).exits(0).json();
    assert_eq!((&told["run"], &told["results"], &told["new"]), (&json!(second), &json!(2), &json!(2)));
    // A run reuses the imported results.
    run(&there, "two");
    assert_eq!(ran(&there), "");
    let tool = fs::canonicalize(there.path(".voxpipe/latest/p/small/sub/run.sh")).unwrap();
    assert_eq!(fs::metadata(tool).unwrap().permissions().mode() & 0o777, 0o555);
    assert!(there.run(&["show", &second]).exits(0).stdout.contains("big    done"));
    there.run(&["cache", "verify"]).exits(0);
    // A second import changes nothing, and an existing run id is not overwritten.
    let told = there.run(&["import", &archive, "--json"]).exits(0).json();
    assert_eq!((&told["run"], &told["new"]), (&json!(second), &json!(0)));
    let other = project();
    let (_, taken) = (run(&other, "five"), run(&other, "six"));
    assert_eq!(taken, second);
    let told = other.run(&["import", &archive]).exits(0).complains("this project has another run");
    assert!(!told.stdout.contains(&format!("run {second} ")), "{}", told.stdout);
    assert!(other.run(&["diff", &taken, "latest"]).exits(0).stdout.contains("\"six\" → \"two\""));

    here.run(&["export", "latest", "light.tar.zst", "--no-results"]).exits(0);
    let light = here.path("light.tar.zst").display().to_string();
    assert!(fs::metadata(&light).unwrap().len() < bytes.len() as u64);
    let elsewhere = project();
    elsewhere.run(&["import", &light]).exits(0);
    run(&elsewhere, "one");
    let told = elsewhere.run(&["diff", &second, "latest"]).exits(0).stdout;
    assert!(told.contains("setting `run.2` \"two\" → \"one\""), "what it was made of came along: {told}");
    here.run(&["gc", "--keep-runs", "0"]).exits(0);
    here.run(&["export", "previous", "gone.tar.zst"]).exits(1).complains("cannot export run").complains("its stored result is missing");
    assert!(!here.path("gone.tar.zst").exists());
}

/// Writes a copy of an archive with modified entries.
fn forged(from: &Path, to: PathBuf, change: impl Fn(&mut Vec<(tar::Header, String, Vec<u8>)>)) -> String {
    let mut archive = tar::Archive::new(zstd::Decoder::new(fs::File::open(from).unwrap()).unwrap());
    let mut entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.header().clone(), name, bytes)
        })
        .collect();
    change(&mut entries);
    let mut out = zstd::Encoder::new(fs::File::create(&to).unwrap(), 1).unwrap();
    for (mut header, name, bytes) in entries {
        // The header is written directly: the library would reject such names.
        header.as_mut_bytes()[..100].fill(0);
        assert!(name.len() <= 100 || name.starts_with("store/"));
        if name.len() > 100 {
            let mut long = tar::Header::new_gnu();
            long.set_entry_type(tar::EntryType::GNULongName);
            long.set_size(name.len() as u64 + 1);
            long.set_cksum();
            out.write_all(long.as_bytes()).unwrap();
            let mut padded = [name.as_bytes(), b"\0"].concat();
            padded.resize(padded.len().div_ceil(512) * 512, 0);
            out.write_all(&padded).unwrap();
        } else {
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        }
        if header.entry_type() == tar::EntryType::Regular {
            header.set_size(bytes.len() as u64);
        }
        header.set_cksum();
        out.write_all(header.as_bytes()).unwrap();
        let mut padded = bytes;
        padded.resize(padded.len().div_ceil(512) * 512, 0);
        out.write_all(&padded).unwrap();
    }
    out.write_all(&[0; 1024]).unwrap();
    out.finish().unwrap();
    to.display().to_string()
}

#[test]
fn an_archive_is_not_believed() {
    let here = project();
    run(&here, "one");
    here.run(&["export", "latest", "run.tar.zst"]).exits(0);
    let good = here.path("run.tar.zst");
    type Entries = Vec<(tar::Header, String, Vec<u8>)>;
    type Change = fn(&mut Entries);
    let at = |entries: &Entries, start: &str, end: &str| {
        entries.iter().position(|(_, name, _)| name.starts_with(start) && name.ends_with(end)).unwrap()
    };
    let _ = at;
    fn find(entries: &Entries, start: &str, end: &str) -> usize {
        entries.iter().position(|(_, name, _)| name.starts_with(start) && name.ends_with(end)).unwrap()
    }
    let rows: [(&str, Change, &str); 12] = [
        (
            "path",
            |e| {
                let i = find(e, "store/", "/big");
                e[i].1 = "../../evil".into()
            },
            "`../../evil` does not belong",
        ),
        (
            "absolute",
            |e| {
                let i = find(e, "store/", "/big");
                e[i].1 = "/tmp/evil".into()
            },
            "`/tmp/evil` does not belong",
        ),
        (
            "climb",
            |e| {
                let i = find(e, "store/", "/big");
                let n = e[i].1.replace("/big", "/../../../evil");
                e[i].1 = n
            },
            "is not listed in any result",
        ),
        (
            "link",
            |e| {
                let i = find(e, "store/", "/big");
                e[i].0.set_entry_type(tar::EntryType::Symlink)
            },
            "is not a regular file",
        ),
        (
            "bytes",
            |e| {
                let i = find(e, "store/", "/big");
                e[i].2[7] ^= 1
            },
            "does not match its digest",
        ),
        (
            "size",
            |e| {
                let i = find(e, "store/", "/big");
                e[i].2.push(0)
            },
            "has a different size than listed",
        ),
        (
            "missing",
            |e| {
                let i = find(e, "store/", "/big");
                e.remove(i);
            },
            "is missing",
        ),
        (
            "twice",
            |e| {
                let i = find(e, "store/", "/big");
                let copy = (e[i].0.clone(), e[i].1.clone(), e[i].2.clone());
                e.push(copy)
            },
            "occurs twice",
        ),
        (
            "key",
            |e| {
                let i = find(e, "keys/", ".json");
                let t = String::from_utf8(e[i].2.clone()).unwrap().replace("\"seed\":", "\"seed\":1");
                e[i].2 = t.into()
            },
            "does not match its fingerprint",
        ),
        (
            "tree",
            |e| {
                let i = find(e, "trees/", ".json");
                e[i].2 = b"{}".to_vec()
            },
            "does not match its digest",
        ),
        (
            "run",
            |e| {
                let t = String::from_utf8(e[0].2.clone()).unwrap().replace("\"run\":\"2", "\"run\":\"../2");
                e[0].2 = t.into()
            },
            "does not name a run",
        ),
        (
            "other",
            |e| {
                e.remove(0);
            },
            "it is not an exported run",
        ),
    ];
    for (what, change, says) in rows {
        let there = project();
        let archive = forged(&good, here.path("forged.tar.zst"), change);
        let told = there.run(&["import", &archive]).exits(2);
        assert!(told.stderr.contains(says), "{what}: no `{says}` in {}", told.stderr);
        assert!(files(&there.path(".voxpipe/store")).is_empty() && files(&there.path(".voxpipe/keys")).is_empty(), "{what}");
        assert!(there.run(&["runs"]).exits(0).stdout.contains("no runs yet"), "{what}");
        assert!(files(&there.path(".voxpipe/work")).is_empty(), "{what}");
        assert!(!Path::new("/tmp/evil").exists() && !there.path("../evil").exists() && !there.path("evil").exists(), "{what}");
    }
    let there = project();
    let same = forged(&good, here.path("forged.tar.zst"), |_| ());
    there.run(&["import", &same]).exits(0);
    let bytes = fs::read(&good).unwrap();
    for length in [0, 3, bytes.len() / 3, bytes.len() / 2, bytes.len() - 5] {
        let there = project();
        fs::write(there.path("cut.tar.zst"), &bytes[..length]).unwrap();
        there.run(&["import", "cut.tar.zst"]).exits(2).complains("cannot import `cut.tar.zst`");
        assert!(files(&there.path(".voxpipe/store")).is_empty(), "cut at {length}");
    }
    there.run(&["import", "none.tar.zst"]).exits(2).complains("none.tar.zst");
}

/// Runs the program in a project with a shared cache.
fn sharing(sandbox: &Sandbox, shared: &Path, read_only: &str, args: &[&str]) -> Ran {
    let mut command = sandbox.command(args);
    command.env("VOXPIPE_SHARED_CACHE", shared).env("VOXPIPE_SHARED_CACHE_READ_ONLY", read_only);
    Ran::of(command.output().unwrap())
}

#[test]
fn a_team_makes_each_result_once() {
    let (one, two, three) = (project(), project(), project());
    let shared = one.path("../shared");
    fs::create_dir(&shared).unwrap();
    sharing(&one, &shared, "", &["run"]).exits(0);
    assert_eq!(ran(&one), "big small");
    let plan = sharing(&two, &shared, "", &["plan", "--json", "--exit-code"]).exits(0).json();
    assert_eq!((&plan["steps"][0]["state"], &plan["steps"][1]["state"]), (&json!("shared"), &json!("shared")));
    assert!(!two.path(".voxpipe").exists(), "planning writes nothing");
    let told = sharing(&two, &shared, "", &["run"]).exits(0).complains("pulled from the shared cache");
    assert!(told.stdout.contains("2 fresh"), "{}", told.stdout);
    assert_eq!(ran(&two), "");
    two.run(&["cache", "verify"]).exits(0);
    // Pulled results are copies.
    fs::rename(&shared, shared.with_file_name("away")).unwrap();
    sharing(&two, &shared, "", &["run"]).exits(0).complains("does not exist and is not used");
    assert_eq!(ran(&two), "");
    fs::rename(shared.with_file_name("away"), &shared).unwrap();
    // Read-only pulls but does not push; the file and the environment variables are equivalent.
    three.pipeline(&format!("{PIPELINE}[cache]\nshared = \"{}\"\nread_only = true\n", shared.display()));
    three.run(&["run"]).exits(0);
    assert_eq!(ran(&three), "");
    let before = files(&shared);
    three.run(&["run", "--set", "word=other"]).exits(0);
    assert_eq!((ran(&three).as_str(), files(&shared)), ("big small", before));
    let (four, before) = (project(), files(&shared));
    sharing(&four, &shared, "1", &["run", "--set", "word=more"]).exits(0);
    sharing(&four, Path::new(""), "", &["run", "--set", "word=again"]).exits(0);
    assert_eq!(files(&shared), before);
    sharing(&four, &shared, "", &["run", "--set", "word=given"]).exits(0);
    assert!(files(&shared).values().any(|bytes| bytes.starts_with(b"given\n")));
    assert!(!files(&shared).values().any(|bytes| bytes.starts_with(b"more\n") || bytes.starts_with(b"again\n")));
}

#[test]
fn a_damaged_shared_result_is_refused_and_made() {
    let (one, two) = (project(), project());
    let shared = one.path("../shared");
    fs::create_dir(&shared).unwrap();
    sharing(&one, &shared, "", &["run"]).exits(0);
    let big = files(&shared).into_keys().find(|name| name.ends_with("/big")).map(|name| shared.join(name)).unwrap();
    fs::set_permissions(&big, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(&big).unwrap();
    bytes[500] ^= 1;
    fs::write(&big, bytes).unwrap();
    sharing(&two, &shared, "", &["run"]).exits(0).complains("cannot pull from the shared cache").complains("is damaged");
    assert_eq!(ran(&two), "big", "the other result is good");
    two.run(&["cache", "verify"]).exits(0);
    assert_eq!(fs::read(fs::canonicalize(two.path(".voxpipe/latest/p/big/big")).unwrap()).unwrap().len(), 100_000);
    // A file list with a path outside the folder is rejected.
    let three = project();
    let tree = files(&shared).into_keys().find(|name| name.contains("/trees/")).map(|name| shared.join(name)).unwrap();
    let text = fs::read_to_string(&tree).unwrap();
    fs::write(&tree, text.replacen("\":{", "/../../../../evil\":{", 1)).unwrap();
    sharing(&three, &shared, "", &["run"]).exits(0);
    assert!(!ran(&three).is_empty());
}
