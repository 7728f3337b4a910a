//! Jobs that a killed run left, a controller that is away, and a person who cancels a job.

use super::*;

/// Kills a run and leaves its job running; returns when the job is.
fn killed(cluster: &Cluster) {
    let mut child = cluster.start(&["run"], "begun.sign");
    child.kill().unwrap();
    child.wait().unwrap();
}

const WAITS: &str = "echo $$ > pid; touch begun.sign; until [ -e go ]; do sleep 0.05; done; touch $0/x";

#[test]
fn a_job_that_nothing_needs_any_more_is_named_and_cancelled() {
    let on = "resources = { on = \"slurm\" }";
    let quick = |name: &str| stage(name, "touch $0/x", "");
    // Another setting, another name, and back to a result that is there: the job is of no use any more.
    let first = stage("s", WAITS, on);
    for (label, before, after) in [
        ("another setting", None, stage("s", "touch $0/y", on)),
        ("renamed", None, stage("t", "touch $0/x", on)),
        ("set back", Some(quick("s")), quick("s")),
    ] {
        let cluster = Cluster::new(&first);
        if let Some(before) = before {
            // Twice, so that the second run takes the fast path for up-to-date runs.
            cluster.sandbox.pipeline(&format!("{HEAD}{before}"));
            cluster.run(&["run"]).exits(0);
            cluster.run(&["run"]).exits(0);
        }
        cluster.sandbox.pipeline(&format!("{HEAD}{first}"));
        killed(&cluster);
        cluster.sandbox.pipeline(&format!("{HEAD}{after}"));
        let ran = cluster.run(&["run"]).exits(0);
        assert!(ran.stderr.contains("Slurm job 41 (stage `s` of the pipeline `cluster`, run "), "{label}: {}", ran.stderr);
        assert!(ran.stderr.contains("no longer needs, and was cancelled"), "{label}: {}", ran.stderr);
        assert_eq!(fs::read_to_string(cluster.state("cancelled")).unwrap(), "41\n", "{label}");
        assert!(!cluster.run(&["run"]).exits(0).stderr.contains("Slurm job 41"), "{label}: it is told once");
    }
}

#[test]
fn a_job_of_another_pipeline_is_only_named() {
    let cluster = Cluster::new(&stage("s", WAITS, "resources = { on = \"slurm\" }"));
    killed(&cluster);
    let other = HEAD.replace("cluster", "other");
    cluster.sandbox.file("other.toml", &format!("{other}{}", stage("s", "touch $0/x", "")));
    let told = "Slurm job 41 (stage `s` of the pipeline `cluster`, run ";
    cluster.run(&["run", "other.toml"]).exits(0).complains(told).complains("is still running");
    assert!(!cluster.state("cancelled").exists());
    cluster.sandbox.file("go", "");
    cluster.run(&["run"]).exits(0);
    assert_eq!(cluster.jobs(), 1, "its own run continues it");
}

#[test]
fn gc_keeps_the_folder_of_a_living_job() {
    let cluster = Cluster::new(&stage("s", WAITS, "resources = { on = \"slurm\" }"));
    killed(&cluster);
    // For this pipeline the job's folder is of no use any more.
    cluster.sandbox.pipeline(&format!("{HEAD}{}", stage("s", "touch $0/y", "")));
    fs::remove_dir_all(cluster.sandbox.path(".voxpipe/last")).unwrap();
    let folders = || {
        fs::read_dir(cluster.sandbox.path(".voxpipe/work"))
            .unwrap()
            .filter(|work| work.as_ref().unwrap().path().join("scratch/job").exists())
            .count()
    };
    for away in [false, true] {
        if away {
            fs::write(cluster.state("away"), "").unwrap();
        }
        cluster.run(&["gc", "--keep-runs", "0"]).exits(0).complains("Slurm job 41").complains("its folder is kept");
        assert_eq!(folders(), 1, "away: {away}");
    }
    fs::remove_file(cluster.state("away")).unwrap();
    cluster.sandbox.file("go", "");
    appears(&cluster.state("job-41/code"));
    cluster.run(&["gc", "--keep-runs", "0"]).exits(0);
    assert_eq!(folders(), 0, "once the job has ended");
}

#[test]
fn a_job_is_submitted_once_the_controller_answers() {
    let job = || Cluster::new(&stage("s", "touch $0/x", "resources = { on = \"slurm\" }"));
    let cluster = job();
    fs::write(cluster.state("deaf"), "").unwrap();
    let child = cluster.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    appears(&cluster.state("tried"));
    fs::remove_file(cluster.state("deaf")).unwrap();
    Ran::of(child.wait_with_output().unwrap()).exits(0).complains("cannot submit to Slurm: `sbatch` failed").complains("; retrying");
    assert_eq!(cluster.jobs(), 1);
    // The answer is lost, but not the job, whether it still runs when it is looked for or has ended.
    for (script, told) in [("sleep 4; touch $0/x", "submitted as Slurm job 41"), ("touch $0/x", "submitted as Slurm job of unknown id")] {
        let cluster = Cluster::new(&stage("s", script, "resources = { on = \"slurm\" }"));
        fs::write(cluster.state("mute"), "").unwrap();
        cluster.run(&["run"]).exits(0).complains("Socket timed out").complains(told);
        assert_eq!(cluster.jobs(), 1, "nothing is submitted twice");
    }
    // A run that waits for the controller can be stopped.
    let cluster = job();
    fs::write(cluster.state("deaf"), "").unwrap();
    let child = cluster.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    appears(&cluster.state("tried"));
    signal(&child, "TERM");
    Ran::of(child.wait_with_output().unwrap()).exits(75);
}

#[test]
fn a_job_that_a_person_cancels_is_no_timeout() {
    for asked in [false, true] {
        let more = "resources = { on = \"slurm\" }\nretry = { times = 3, on = [\"timeout\", \"crash\"] }";
        let cluster = Cluster::new(&stage("s", WAITS, more));
        let child = cluster.start(&["run"], "begun.sign");
        let pid = cluster.told(41, "pid");
        fs::write(cluster.state("job-41/state"), "CANCELLED by 1000").unwrap();
        // Slurm sends SIGTERM first; what does not end then gets SIGKILL.
        let signal = if asked { "-TERM" } else { "-KILL" };
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
        let ran = Ran::of(child.wait_with_output().unwrap()).exits(1);
        ran.complains("Slurm job 41 was cancelled by somebody");
        assert_eq!(cluster.jobs(), 1, "it is not submitted again");
    }
}

#[test]
fn a_job_gets_nothing_of_the_job_that_submits_it() {
    let cluster = Cluster::new(&stage("s", "touch $0/x", "resources = { on = \"slurm\" }"));
    let mut command = cluster.command(&["run"]);
    command.envs([("SLURM_JOB_ID", "7"), ("SLURM_CPUS_PER_TASK", "64"), ("SBATCH_PARTITION", "debug"), ("SLURM_CONF", "/etc/own.conf")]);
    Ran::of(command.env("PLAIN", "seen").output().unwrap()).exits(0);
    let environment = cluster.told(41, "environment");
    for (name, there) in
        [("SLURM_JOB_ID", false), ("SLURM_CPUS_PER_TASK", false), ("SBATCH_PARTITION", false), ("SLURM_CONF", true), ("PLAIN", true)]
    {
        assert_eq!(environment.contains(name), there, "{name}: {environment}");
    }
}
