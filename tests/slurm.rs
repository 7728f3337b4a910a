//! Stages as Slurm jobs: with stand-ins for Slurm's client programs, and with a real single-node Slurm where it is installed.

mod leftover;

use crate::support::{Ran, Sandbox, signal, skipped};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

const HEAD: &str = "schema = 1\n[pipeline]\nname = \"cluster\"\n[slurm]\npoll = \"1s\"\n";

/// A project with stand-ins for `sbatch`, `squeue` and `scancel`.
struct Cluster {
    sandbox: Sandbox,
}

impl Cluster {
    fn new(pipeline: &str) -> Self {
        let sandbox = Sandbox::new();
        sandbox.pipeline(&format!("{HEAD}{pipeline}"));
        let cluster = Self { sandbox };
        fs::create_dir_all(cluster.state("")).unwrap();
        for name in ["sbatch", "squeue", "scancel"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm").join(name);
            let to = cluster.sandbox.root().join("../bin").join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        }
        // A cluster without accounting: `sacct` fails.
        let sacct = cluster.sandbox.root().join("../bin/sacct");
        fs::write(&sacct, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&sacct, fs::Permissions::from_mode(0o755)).unwrap();
        cluster
    }

    fn state(&self, file: &str) -> PathBuf {
        self.sandbox.root().join("../cluster").join(file)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.command(args);
        let bin = self.sandbox.root().join("../bin");
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display())).env("STAND_IN", self.state(""));
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Starts a run and waits until a file of the project exists.
    fn start(&self, args: &[&str], sign: &str) -> Child {
        let child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        appears(&self.sandbox.path(sign));
        child
    }

    fn jobs(&self) -> usize {
        fs::read_dir(self.state(""))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("job-"))
            .count()
    }

    fn told(&self, job: u32, file: &str) -> String {
        fs::read_to_string(self.state(&format!("job-{job}/{file}"))).unwrap()
    }

    fn result(&self, stage: &str, file: &str) -> String {
        self.sandbox.read(&format!(".voxpipe/latest/cluster/{stage}/{file}"))
    }
}

fn appears(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "`{}` did not appear", file.display());
        thread::sleep(Duration::from_millis(20));
    }
}

fn stage(name: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!("[stage.{name}]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", {script}, \"${{out}}\", \"${{scratch}}\"] }}\n{more}\n")
}

fn events(sandbox: &Sandbox, stage: &str) -> Vec<Value> {
    let said = sandbox.run(&["logs", stage, "--json"]).exits(0).stdout;
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["event"].as_str()).collect()
}

const ON: &str = "resources = { on = \"slurm\", gpu = 1, cpu = 2, slurm = [\"--mem=1G\"] }";

#[test]
fn a_stage_runs_as_a_job_and_tells_what_it_tells_here() {
    let work = "echo '{\"progress\":{\"done\":1,\"total\":2,\"unit\":\"steps\"}}'; echo '{\"metrics\":{\"wer\":0.25}}'; echo $GREETING; echo $GREETING > $0/words";
    let pipeline = format!(
        "args = [\"--partition=gpu\"]\nsetup = [\"export GREETING=hi\"]\n{}{}{}",
        stage("first", "echo a > $0/words", ""),
        stage("job", work, &format!("from = {{ first = \"first\" }}\nrequire = {{ wer = \"< 0.3\" }}\n{ON}")),
        stage("last", "touch $0/x", "from = { job = \"job\" }"),
    );
    let cluster = Cluster::new(&pipeline);
    let mut command = cluster.command(&["run"]);
    command.env("HF_TOKEN", "hf_notforslurm").env("PLAIN", "seen").env("TOKENIZERS_PARALLELISM", "false");
    command.env("MYSQL_PASSWD", "notforslurm").env("DATABASE_URL", "pg://me:notforslurm@host/db");
    let ran = Ran::of(command.output().unwrap()).exits(0);
    ran.complains("submitted as Slurm job 41").complains("note         hi");
    let arguments = cluster.told(41, "arguments");
    for argument in ["--parsable", "--partition=gpu", "--mem=1G", "--gres=gpu:1", "--cpus-per-task=2", "--no-requeue", "--signal=B:TERM@60"]
    {
        assert!(arguments.lines().any(|line| line == argument), "{argument}: {arguments}");
    }
    let environment = cluster.told(41, "environment");
    assert!(environment.contains("PLAIN=seen") && environment.contains("TOKENIZERS_PARALLELISM=false"), "{environment}");
    assert!(!environment.contains("notforslurm"), "{environment}");
    let events = events(&cluster.sandbox, "job");
    let said = names(&events);
    assert!(said.starts_with(&["stage-started", "note"]) && said.ends_with(&["stage-finished"]), "{said:?}");
    assert!(said.contains(&"progress") && said.contains(&"metrics"), "{said:?}");
    assert_eq!(events.last().unwrap()["metrics"]["wer"], 0.25);
    assert_eq!(cluster.result("job", "words"), "hi\n");

    // The executor is not part of the fingerprint, so a local run is up to date.
    assert!(cluster.run(&["run", "--set", "stage.job.resources.on=local"]).exits(0).stdout.contains("3 fresh"));
    assert_eq!(cluster.jobs(), 1);
    assert_eq!(fs::read_dir(cluster.sandbox.path(".voxpipe/work")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_whole_run_goes_to_the_cluster_except_what_stays() {
    let stages = [
        stage("a", "touch $0/a", ""),
        stage("b", "touch $0/b", "resources = { on = \"local\" }"),
        stage("c", "touch $0/c", "after = [\"a\"]"),
    ];
    let cluster = Cluster::new(&stages.concat());
    cluster.run(&["run", "--executor", "slurm"]).exits(0);
    assert_eq!(cluster.jobs(), 2);
    let names: Vec<_> = [41, 42].into_iter().map(|job| cluster.told(job, "name")).collect();
    assert!(names[0].starts_with("voxpipe-a-") && names[1].starts_with("voxpipe-c-"), "{names:?}");
}

/// Each combination ends only when the jobs of all three run at the same time.
#[test]
fn a_sweep_is_as_many_jobs_as_it_has_combinations() {
    let meets = "touch here.$2; n=0; while [ $(ls here.* | wc -l) -lt 3 ]; do sleep 0.05; n=$((n + 1)); [ $n -lt 1200 ] || exit 9; done; \
        echo \"{\\\"metrics\\\": {\\\"wer\\\": $2}}\"; echo $2 > $0/x";
    let script = serde_json::to_string(meets).unwrap();
    let cluster = Cluster::new(&format!(
        "[params]\nn = 1\n[stage.scores]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", {script}, \"${{out}}\", \"x\", \"${{params.n}}\"] }}\n\
         [matrix]\naxes = {{ n = [3, 1, 2] }}\nbest = {{ metric = \"scores.wer\", goal = \"min\" }}\n"
    ));
    let told = cluster.run(&["sweep", "--on", "slurm", "--json"]).exits(0).json();
    let words: Vec<&str> = told["combinations"].as_array().unwrap().iter().map(|row| row["result"].as_str().unwrap()).collect();
    assert_eq!((words, cluster.jobs()), (vec!["done"; 3], 3));
    assert_eq!(told["combinations"][1]["best"], true);
    assert_eq!(cluster.result("scores", "x"), "1\n");
}

#[test]
fn a_job_that_fails_fails_as_it_would_here() {
    let cluster = Cluster::new(&stage("s", "echo oh no; exit 5", "resources = { on = \"slurm\" }\nretry = { times = 1 }"));
    cluster.run(&["run"]).exits(1).complains("`sh` failed with exit code 5; its last line:\n  oh no").complains("retrying");
    assert_eq!(cluster.jobs(), 2);
    let cluster = Cluster::new(&stage("s", "sleep 60", "resources = { on = \"slurm\" }\ntimeout = \"1s\""));
    cluster.run(&["run"]).exits(11).complains("it exceeded its timeout of 1 s");
}

#[test]
fn a_job_without_a_last_word_is_told_by_its_state() {
    let recover = "retry = { times = 1, on = [\"out-of-memory\"] }\nresources = { on = \"slurm\" }";
    let cluster = Cluster::new(&stage("s", "touch $0/x", recover));
    fs::write(cluster.state("lose"), "OUT_OF_MEMORY").unwrap();
    let ran = cluster.run(&["run"]).exits(1);
    ran.complains("Slurm job 42 ended without a result: final state OUT_OF_MEMORY").complains("oom_kill event").complains("--mem=64G");
    assert_eq!(cluster.jobs(), 2, "what is to be tried again is");
    fs::remove_file(cluster.state("lose")).unwrap();
    cluster.run(&["run"]).exits(0);
}

#[test]
fn what_slurm_refuses_is_told() {
    let cluster = Cluster::new(&stage("s", "touch $0/x", "resources = { on = \"slurm\" }"));
    fs::write(cluster.state("refuse"), "no-such").unwrap();
    cluster
        .run(&["run"])
        .exits(4)
        .complains("`sbatch` failed: sbatch: error: invalid partition specified: no-such")
        .complains("check `args` in `[slurm]`");
    let ran = Ran::of(cluster.command(&["run"]).env("PATH", "/nowhere").output().unwrap()).exits(4);
    ran.complains("cannot start `sbatch`").complains("`on = \"local\"`");
}

#[test]
fn a_cluster_that_is_away_for_a_while_is_asked_on() {
    let script = "touch away.sign; until [ -e go ]; do sleep 0.05; done; touch $0/x";
    let cluster = Cluster::new(&stage("s", script, "resources = { on = \"slurm\" }"));
    fs::write(cluster.state("away"), "").unwrap();
    let child = cluster.start(&["run"], "away.sign");
    thread::sleep(Duration::from_millis(1500));
    cluster.sandbox.file("go", "");
    Ran::of(child.wait_with_output().unwrap()).exits(0).complains("cannot get the status of Slurm job 41").complains("; retrying");
}

#[test]
fn a_job_outlives_the_run_that_submitted_it() {
    let script = "touch begun.sign; until [ -e go ]; do sleep 0.05; done; echo once >> made; touch $0/x";
    for (goes_on, noted) in [(true, true), (true, false), (false, true)] {
        let cluster = Cluster::new(&stage("s", script, "resources = { on = \"slurm\" }"));
        let mut child = cluster.start(&["run"], "begun.sign");
        child.kill().unwrap();
        child.wait().unwrap();
        let work = fs::read_dir(cluster.sandbox.path(".voxpipe/work")).unwrap().next().unwrap().unwrap().path();
        if !noted {
            // As if killed between submitting the job and recording its id.
            fs::remove_file(work.join("scratch/job/id")).unwrap();
        }
        let go = || cluster.sandbox.file("go", "");
        if goes_on {
            let again = cluster.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(Duration::from_millis(500));
            go();
            Ran::of(again.wait_with_output().unwrap()).exits(0).complains("Slurm job 41 of an earlier run is still running");
        } else {
            go();
            appears(&cluster.state("job-41/code"));
            cluster.run(&["run"]).exits(0).complains("Slurm job 41 of an earlier run has ended in the meantime");
        }
        assert_eq!(cluster.jobs(), 1, "nothing is submitted twice");
        assert_eq!(cluster.sandbox.read("made"), "once\n");
        assert!(cluster.run(&["run"]).exits(0).stdout.contains("1 fresh"));
    }
}

#[test]
fn nobody_works_beside_a_job() {
    let script = "touch begun.sign; until [ -e go ]; do sleep 0.05; done; echo once >> made; touch $0/x";
    let cluster = Cluster::new(&stage("s", script, "resources = { on = \"slurm\" }"));
    let mut child = cluster.start(&["run"], "begun.sign");
    child.kill().unwrap();
    child.wait().unwrap();
    let here = ["run", "--set", "stage.s.resources.on=local"];
    cluster
        .run(&here)
        .exits(3)
        .complains("job 41, submitted by an earlier run for this stage, may still be running")
        .complains("cancel the job");
    cluster.sandbox.file("go", "");
    appears(&cluster.state("job-41/code"));
    // Once the job has ended, the stage may run locally.
    cluster.run(&here).exits(0);
    assert_eq!(cluster.sandbox.read("made"), "once\nonce\n");
}

#[test]
fn whoever_interrupts_a_run_cancels_its_jobs() {
    // The stage leaves a scratch file to resume from, like a training checkpoint.
    let script = "echo $$ > pid; [ -e $1/kept ] && touch $0/x && exit; echo kept > $1/kept; touch begun.sign; sleep 60";
    let cluster = Cluster::new(&stage("s", script, "resources = { on = \"slurm\" }"));
    let child = cluster.start(&["run"], "begun.sign");
    // Wait until the run has polled the status `running`.
    thread::sleep(Duration::from_millis(1500));
    signal(&child, "INT");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
    assert!(!Path::new("/proc").join(cluster.sandbox.read("pid").trim()).exists());
    assert_eq!(fs::read_to_string(cluster.state("cancelled")).unwrap(), "--batch --signal=TERM 41\n");
    cluster.run(&["run"]).exits(0);
    assert_eq!(cluster.jobs(), 2);

    // A queued job is removed from the queue.
    let cluster = Cluster::new(&stage("s", "touch $0/x", "resources = { on = \"slurm\" }"));
    fs::write(cluster.state("hold"), "").unwrap();
    let child = cluster.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    appears(&cluster.state("job-41/name"));
    thread::sleep(Duration::from_millis(1500));
    signal(&child, "TERM");
    Ran::of(child.wait_with_output().unwrap()).exits(75).complains("Slurm job 41 is queued");
    assert_eq!(fs::read_to_string(cluster.state("cancelled")).unwrap(), "41\n");
}

#[test]
fn a_job_whose_time_is_over_goes_on_as_another() {
    let script = "[ -e $1/kept ] && touch $0/x && exit; touch $1/kept; touch begun.sign; sleep 60";
    let more = "resources = { on = \"slurm\" }\nretry = { times = 3, on = [\"timeout\"] }";
    let cluster = Cluster::new(&stage("s", script, more));
    let child = cluster.start(&["run"], "begun.sign");
    // The signal that Slurm sends one minute before the time limit.
    let pid = cluster.told(41, "pid");
    assert!(Command::new("kill").args(["-TERM", pid.trim()]).status().unwrap().success());
    Ran::of(child.wait_with_output().unwrap()).exits(0).complains("Slurm job 41 was stopped from outside").complains("retrying");
    assert_eq!(cluster.jobs(), 2);
}

#[test]
fn jobs_at_once_have_a_limit_of_their_own() {
    let script = "mkdir held || exit 9; sleep 0.2; rmdir held; touch $0/x";
    let stages: String = ["a", "b", "c"].iter().map(|name| stage(name, script, "resources = { on = \"slurm\" }")).collect();
    Cluster::new(&format!("jobs = 1\n{stages}")).run(&["run", "--jobs", "8"]).exits(0);
}

#[test]
fn mistakes_in_what_slurm_is_told_are_found_before() {
    let stages = stage("s", "true", "resources = { on = \"slurm\", slurm = [\"--output=x\", \"mem=3\"] }");
    let cluster = Cluster::new(&format!("jobs = 0\n{stages}"));
    let ran = cluster
        .run(&["check"])
        .exits(2)
        .complains("`--output` is set by voxpipe")
        .complains("\"mem=3\" is not an argument of `sbatch`")
        .complains("`jobs` must be at least 1, not 0");
    assert!(ran.stderr.contains("pipeline.toml:6:8"), "{}", ran.stderr);
}

#[test]
fn a_folder_that_is_none_is_an_error() {
    Sandbox::new().run(&["work", "nowhere"]).exits(2).complains("`nowhere` is not a job folder");
}

/// A single-node Slurm cluster on the loopback interface, stopped on drop.
struct Slurm {
    folder: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Slurm {
    /// Starts munge, the controller and the node; returns the reason if that is not possible.
    fn start() -> Result<Self, String> {
        for program in ["munged", "slurmctld", "slurmd"] {
            if !Path::new("/usr/sbin").join(program).exists() {
                return Err(format!("there is no {program}; on Debian: apt-get install slurm-wlm"));
            }
        }
        if !is_root() {
            return Err("slurmd has to be started by root".to_owned());
        }
        let mut slurm = Self { folder: tempfile::tempdir().unwrap(), daemons: Vec::new() };
        let at = |name: &str| slurm.folder.path().join(name).display().to_string();
        // Munge checks the permissions of the folders above its socket.
        for name in ["munge", "state", "spool"] {
            fs::create_dir(at(name)).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(at("munge/key"), [7; 1024]).unwrap();
        fs::set_permissions(at("munge/key"), fs::Permissions::from_mode(0o400)).unwrap();
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim().split('.').next().unwrap().to_owned();
        let ports: Vec<u16> =
            (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).map(|free| free.local_addr().unwrap().port()).collect();
        let conf = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={}\nSlurmdPort={}\nAuthType=auth/munge\nAuthInfo=socket={}\n\
             SlurmUser=root\nSlurmdUser=root\nStateSaveLocation={}\nSlurmdSpoolDir={}\nSlurmctldPidFile={}\nSlurmdPidFile={}\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\nMpiDefault=none\n\
             AccountingStorageType=accounting_storage/none\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nReturnToService=2\n\
             KillWait=5\nSchedulerParameters=batch_sched_delay=0,sched_interval=1\nNodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN\n\
             PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP\n",
            ports[0],
            ports[1],
            at("munge/socket"),
            at("state"),
            at("spool"),
            at("ctld.pid"),
            at("d.pid"),
        );
        fs::write(at("slurm.conf"), conf).unwrap();
        let paths = ["key-file", "socket", "pid-file", "log-file", "seed-file"]
            .map(|name| format!("--{name}={}", at(&format!("munge/{}", name.split('-').next().unwrap()))));
        let daemons: [(&str, Vec<String>); 3] = [
            ("munged", paths.into_iter().chain(["--force".to_owned(), "--foreground".to_owned()]).collect()),
            ("slurmctld", vec!["-D".into(), "-f".into(), at("slurm.conf")]),
            ("slurmd", vec!["-D".into(), "-f".into(), at("slurm.conf"), "-N".into(), host]),
        ];
        let said: Vec<String> = daemons.iter().map(|(name, _)| at(&format!("{name}.out"))).collect();
        let socket = at("munge/socket");
        for ((name, arguments), said) in daemons.into_iter().zip(&said) {
            let out = fs::File::create(said).unwrap();
            let daemon =
                Command::new(Path::new("/usr/sbin").join(name)).args(arguments).stdout(out.try_clone().unwrap()).stderr(out).spawn();
            slurm.daemons.push(daemon.unwrap());
            if name == "munged" {
                let begun = Instant::now();
                while !Path::new(&socket).exists() && begun.elapsed() < Duration::from_secs(20) {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            let sinfo = Command::new("sinfo").args(["--noheader", "--format=%T"]).env("SLURM_CONF", slurm.conf()).output();
            if sinfo.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).trim() == "idle") {
                return Ok(slurm);
            }
            thread::sleep(Duration::from_millis(200));
        }
        let said: String = said.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
        Err(format!("its daemons do not come up here: {}", said.lines().last().unwrap_or_default()))
    }

    fn conf(&self) -> PathBuf {
        self.folder.path().join("slurm.conf")
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let _ = Command::new("scancel").args(["--quiet", "--user=root"]).env("SLURM_CONF", self.conf()).output();
        for daemon in self.daemons.iter_mut().rev() {
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
        }
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|said| said.stdout == b"0\n")
}

/// The cases of the tests above with a real Slurm: success, failure, cancel and resume, and a job that outlives its run.
#[test]
fn a_real_slurm_does_all_this() {
    let slurm = match Slurm::start() {
        Ok(slurm) => slurm,
        Err(why) => return skipped("stages as jobs of a real Slurm", &why),
    };
    let sandbox = Sandbox::new();
    let command = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.env("SLURM_CONF", slurm.conf()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let run = |args: &[&str]| Ran::of(command(args).output().unwrap());
    let start = |sign: &str| {
        let child = command(&["run"]).spawn().unwrap();
        appears(&sandbox.path(sign));
        child
    };
    let on = "resources = { on = \"slurm\" }";

    // Success: a local stage and another job use the result of a job.
    let stages = [
        stage("job", "echo $SLURM_JOB_ID > $0/id; echo '{\"metrics\":{\"wer\":0.5}}'", on),
        stage("here", "touch $0/x", "from = { job = \"job\" }"),
        stage("then", "touch $0/x", &format!("from = {{ job = \"job\" }}\n{on}")),
    ];
    sandbox.pipeline(&format!("{HEAD}{}", stages.concat()));
    run(&["run"]).exits(0).complains("submitted as Slurm job 1");
    assert_eq!(sandbox.read(".voxpipe/latest/cluster/job/id"), "1\n");
    assert!(run(&["run"]).exits(0).stdout.contains("3 fresh"));

    // Failed, and rejected on submission.
    sandbox.pipeline(&format!("{HEAD}{}", stage("bad", "echo oh no; exit 3", on)));
    run(&["run"]).exits(1).complains("failed with exit code 3").complains("oh no");
    sandbox.pipeline(&format!("{HEAD}args = [\"--partition=none\"]\n{}", stage("bad", "true", on)));
    run(&["run"]).exits(4).complains("`sbatch` failed:").complains("invalid partition");

    // Cancelled, then resumed from its scratch files.
    let keeps = "[ -e $1/kept ] && touch $0/x && exit; touch $1/kept; touch begun.sign; sleep 60";
    sandbox.pipeline(&format!("{HEAD}{}", stage("long", keeps, on)));
    let child = start("begun.sign");
    thread::sleep(Duration::from_millis(1500));
    signal(&child, "INT");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
    let queue = Command::new("squeue").args(["--noheader", "--states=RUNNING"]).env("SLURM_CONF", slurm.conf()).output().unwrap();
    assert!(queue.stdout.is_empty(), "{}", String::from_utf8_lossy(&queue.stdout));
    run(&["run"]).exits(0);

    // The run is killed, its job continues, and the next run adopts it.
    let waits = "touch outlives.sign; until [ -e go ]; do sleep 0.1; done; echo once >> made; touch $0/x";
    sandbox.pipeline(&format!("{HEAD}{}", stage("outlives", waits, on)));
    let mut child = start("outlives.sign");
    child.kill().unwrap();
    child.wait().unwrap();
    let again = command(&["run"]).spawn().unwrap();
    thread::sleep(Duration::from_millis(500));
    sandbox.file("go", "");
    Ran::of(again.wait_with_output().unwrap()).exits(0).complains("of an earlier run is still running");
    assert_eq!(sandbox.read("made"), "once\n");
}
