//! The environment of a program: that of this machine, a container image that is pinned by its digest, or the packages of a `uv.lock`.

use super::Command;
use crate::error::{Error, Result, ResultExt};
use pipeline::cache::programs;
use pipeline::stage::{Context, SettingError, gpu};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

/// The variable that chooses among several container engines.
const CHOICE: &str = "VOXPIPE_CONTAINER_ENGINE";

/// A program that runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Apptainer,
    Podman,
    Docker,
}

/// The engines by program, in the order in which they are looked for: those that need no service and no rights of root first.
const ENGINES: [(&str, Engine); 4] =
    [("apptainer", Engine::Apptainer), ("singularity", Engine::Apptainer), ("podman", Engine::Podman), ("docker", Engine::Docker)];

/// The exit code with which docker and podman say that they could not start a container.
pub(super) const ENGINE_FAILED: i32 = 125;

/// A container that is removed when its program ended in any other way than by itself: ending the engine's client does not end it.
#[derive(Debug)]
pub(super) struct Container {
    engine: PathBuf,
    name: String,
    ended: bool,
}

impl Container {
    /// The name of the engine's program.
    pub(super) fn engine(&self) -> String {
        self.engine.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its program ended by itself, and the engine has removed the container.
    pub(super) fn ended(mut self) {
        self.ended = true;
    }

    fn remove(&self) {
        let mut command = Process::new(&self.engine);
        let _ = command.args(["rm", "--force", &self.name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.ended {
            self.remove();
        }
    }
}

/// A program that is ready to be started in its environment.
pub(super) struct Prepared {
    pub(super) command: Process,
    /// The container, if it outlives its client.
    pub(super) container: Option<Container>,
}

/// Errors in `container` and `uv`.
pub(super) fn check(settings: &Command) -> Vec<SettingError> {
    let mut errors = Vec::new();
    if let Some(image) = &settings.container {
        if let Err((message, hint)) = reference(image) {
            errors.push(SettingError::new("container", message).hint(hint));
        }
        if settings.uv.is_some() {
            let hint = "remove one of them; to use uv in a container, call it in `run`, and add the lockfile to `code`";
            errors.push(SettingError::new("uv", "`uv` and `container` are two environments for one program").hint(hint));
        }
        if !settings.tools.is_empty() {
            let hint = "remove `tools`: the digest of the image covers the programs in it";
            errors.push(SettingError::new("tools", "`tools` are programs of this machine, and the program runs in a container").hint(hint));
        }
    }
    if let Some(lock) = &settings.uv
        && lock.file_name() != Some(OsStr::new("uv.lock"))
    {
        let message = format!("`{}` is not a lockfile of uv", lock.display());
        errors.push(
            SettingError::new("uv", message).hint("write `uv = \"uv.lock\"`, or `uv = \"FOLDER/uv.lock\"`; `uv lock` makes the file"),
        );
    }
    errors
}

/// The image as `NAME@sha256:DIGEST`, without a tag, which no engine needs beside a digest. An error is a message and a hint.
fn reference(image: &str) -> std::result::Result<String, (String, String)> {
    let refuse = |message: String, hint: &str| Err((message, hint.to_owned()));
    if image.contains("://") {
        return refuse(format!("`{image}` has a scheme"), "leave out what is before the name: `docker.io/library/python@sha256:…`");
    }
    let Some((name, digest)) = image.split_once("@sha256:") else {
        let hint = format!(
            "write `NAME@sha256:DIGEST`; `docker buildx imagetools inspect {image}` and `skopeo inspect docker://{image}` print the digest"
        );
        return Err((format!("`{image}` is not pinned by a digest: a tag may name another image tomorrow"), hint));
    };
    if digest.len() != 64 || !digest.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f')) {
        return refuse(format!("`sha256:{digest}` is not a digest"), "a digest has 64 hexadecimal digits in lower case");
    }
    let fine = |character: char| character.is_ascii_alphanumeric() || "._-/:".contains(character);
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.chars().all(fine) {
        return refuse(format!("`{name}` is not the name of an image"), "write it as `docker.io/library/python@sha256:…`");
    }
    // A colon before the last slash belongs to a port.
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    Ok(format!("{name}@sha256:{digest}"))
}

/// Files beside the lockfile, and the lockfile, that decide what is installed.
pub(super) fn sources(uv: Option<&PathBuf>) -> Vec<PathBuf> {
    let Some(lock) = uv else { return Vec::new() };
    [lock.clone(), lock.with_file_name("pyproject.toml"), lock.with_file_name(".python-version")].into()
}

/// What this machine lacks to make the environment.
pub(super) fn lacks(settings: &Command) -> Option<Error> {
    if settings.container.is_some() {
        return engine().err();
    }
    settings.uv.as_ref().and_then(|_| uv_program().err())
}

/// The program with its arguments in the environment that the settings name. `variables` are those that it gets from the settings.
pub(super) fn prepare(
    settings: &Command,
    cx: &Context,
    root: &Path,
    program: &Path,
    arguments: &[OsString],
    variables: &[(String, OsString)],
) -> Result<Prepared> {
    if let Some(image) = &settings.container {
        return contained(settings, image, cx, root, program, arguments, variables);
    }
    let mut command = match &settings.uv {
        None => Process::new(program),
        Some(lock) => {
            let lock = root.join(lock);
            for file in [&lock, &lock.with_file_name("pyproject.toml")] {
                if !file.is_file() {
                    return Err(Error::new(format!("`{}` not found", file.display()))
                        .environment()
                        .hint("`uv init` and `uv lock` make `pyproject.toml` and `uv.lock`; both belong into the project"));
                }
            }
            let mut command = Process::new(uv_program()?);
            let project = lock.parent().unwrap_or(root);
            command.args(["run", "--locked", "--project"]).arg(project).arg("--").arg(program);
            // Not the `.venv` of the person, which they may change while a stage uses it. uv links its files from its own cache.
            command.env("UV_PROJECT_ENVIRONMENT", cx.scratch.join("venv"));
            command
        }
    };
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    Ok(Prepared { command, container: None })
}

fn contained(
    settings: &Command,
    image: &str,
    cx: &Context,
    root: &Path,
    program: &Path,
    arguments: &[OsString],
    variables: &[(String, OsString)],
) -> Result<Prepared> {
    let image = reference(image).map_err(|(message, hint)| Error::new(message).hint(hint))?;
    let (engine, at) = engine()?;
    let mut command = Process::new(&at);
    let mounts = mounts(cx, root)?;
    let gpus: Vec<String> = match cx.gpus.as_slice() {
        // In a job of a cluster, the cluster has chosen.
        [] => std::env::var(gpu::VISIBLE).unwrap_or_default().split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
        gpus => gpus.iter().map(|gpu| gpu.id.clone()).collect(),
    };
    let mut container = None;
    if engine == Engine::Apptainer {
        command.args(["exec", "--cleanenv", "--no-home", "--no-mount", "cwd"]);
        for (path, writable) in &mounts {
            command.arg("--bind").arg(format!("{path}:{path}:{}", if *writable { "rw" } else { "ro" }));
        }
        if !gpus.is_empty() {
            command.arg("--nv");
        }
        // The environment is given in the environment, so that no secret is in an argument.
        let prefix = if at.file_name() == Some(OsStr::new("singularity")) { "SINGULARITYENV_" } else { "APPTAINERENV_" };
        let secrets = settings.env.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?)));
        let visible = (!gpus.is_empty()).then(|| (gpu::VISIBLE.to_owned(), OsString::from(gpus.join(","))));
        for (name, value) in variables.iter().cloned().chain(secrets).chain(visible) {
            command.env(format!("{prefix}{name}"), value);
        }
        command.arg("--pwd").arg(root).arg(format!("docker://{image}"));
    } else {
        let hash = blake3::hash(cx.scratch.as_os_str().as_encoded_bytes()).to_hex();
        let made = Container { engine: at.clone(), name: format!("voxpipe-{}", &hash[..16]), ended: false };
        // One that a killed run left.
        made.remove();
        command.args(["run", "--rm", "--name", &made.name, "--workdir"]).arg(root);
        container = Some(made);
        let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        command.arg(format!("--user={user}:{group}"));
        match engine {
            // Without an init process, a program that handles no SIGTERM could not be stopped.
            Engine::Docker => _ = command.arg("--init"),
            // Without root's rights, the ids in the container are others unless it is told.
            _ if user != 0 => _ = command.arg("--userns=keep-id"),
            _ => {}
        }
        for (path, writable) in &mounts {
            let only = if *writable { "" } else { ",readonly" };
            command.arg("--mount").arg(format!("type=bind,source={path},target={path}{only}"));
        }
        match engine {
            Engine::Docker if !gpus.is_empty() => _ = command.arg("--gpus").arg(format!("\"device={}\"", gpus.join(","))),
            _ => gpus.iter().for_each(|id| _ = command.arg("--device").arg(format!("nvidia.com/gpu={id}"))),
        }
        // The user has no home in the image.
        command.args(["--env", "HOME=/tmp"]);
        for (name, value) in variables {
            let mut set = OsString::from(format!("{name}="));
            set.push(value);
            command.arg("--env").arg(set);
        }
        // By name only: the engine takes the value from its environment, so that no secret is in an argument.
        settings.env.iter().for_each(|name| _ = command.arg("--env").arg(name));
        // Whatever the image starts otherwise.
        command.args(["--entrypoint", ""]).arg(&image);
    }
    command.arg(program).args(arguments);
    Ok(Prepared { command, container })
}

/// The folders that the program sees, at the same paths as here, and whether it may write to them: the project, the inputs, and its own.
fn mounts(cx: &Context, root: &Path) -> Result<Vec<(String, bool)>> {
    let inputs = cx.inputs.values().flatten().map(|artifact| artifact.path.as_path());
    let own = [cx.out.as_path(), cx.scratch.as_path()].into_iter().filter(|folder| folder.is_dir());
    let all = std::iter::once((root, false)).chain(inputs.map(|path| (path, false))).chain(own.map(|path| (path, true)));
    all.map(|(path, writable)| {
        let path = std::path::absolute(path).with_context(|| format!("cannot resolve `{}`", path.display()))?;
        let text = path.to_str().filter(|text| !text.contains([':', ',', '"', '\n'])).ok_or_else(|| {
            Error::new(format!("`{}` cannot be mounted into a container", path.display()))
                .environment()
                .hint("move the project to a path without `:`, `,` and quotes")
        })?;
        Ok((text.to_owned(), writable))
    })
    .collect()
}

/// The container engine: the one that the environment names, otherwise the first in `PATH`.
fn engine() -> Result<(Engine, PathBuf)> {
    let named = std::env::var(CHOICE).ok().filter(|name| !name.is_empty());
    let known = ENGINES.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if let Some(name) = &named
        && !ENGINES.iter().any(|(known, _)| known == name)
    {
        return Err(Error::new(format!("{CHOICE} is `{name}`, which is not a container engine that is known"))
            .environment()
            .hint(format!("known are {known}")));
    }
    let wanted = ENGINES.iter().filter(|(name, _)| named.as_deref().is_none_or(|named| named == *name));
    wanted.into_iter().find_map(|(name, engine)| Some((*engine, in_path(name)?))).ok_or_else(|| {
        let missing = named.map_or_else(|| known.clone(), |name| format!("`{name}`"));
        Error::new(format!("the stage runs in a container, and none of {missing} is in PATH"))
            .environment()
            .hint("install one of them, run the stage on a cluster that has one (`on = \"slurm\"`), or remove `container`")
    })
}

fn uv_program() -> Result<PathBuf> {
    in_path("uv").ok_or_else(|| {
        Error::new("the stage runs in an environment made by `uv`, which is not in PATH")
            .environment()
            .hint("install it (https://docs.astral.sh/uv), or remove `uv` from the stage's settings")
    })
}

fn in_path(program: &str) -> Option<PathBuf> {
    programs::find(program, Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_by_its_digest() {
        let digest = "0123456789abcdef".repeat(4);
        for (image, pinned) in [
            ("python", "python"),
            ("python:3.12-slim", "python"),
            ("localhost:5000/voices/tools", "localhost:5000/voices/tools"),
            ("localhost:5000/voices/tools:v1", "localhost:5000/voices/tools"),
        ] {
            assert_eq!(reference(&format!("{image}@sha256:{digest}")), Ok(format!("{pinned}@sha256:{digest}")));
        }
        for (image, message) in [
            ("python:3.12", "is not pinned by a digest"),
            ("python@sha256:abc", "is not a digest"),
            (&format!("docker://python@sha256:{digest}"), "has a scheme"),
            (&format!("--privileged@sha256:{digest}"), "is not the name of an image"),
            (&format!("a b@sha256:{digest}"), "is not the name of an image"),
        ] {
            assert!(reference(image).unwrap_err().0.contains(message), "{image}");
        }
    }
}
