//! What the tests need from outside: nsqd, and NSQ clients in other languages. Each is made ready once, below
//! `target/`; where that does not work, the reason is kept for whoever needs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::EndlessLookup;

/// A folder with `nsqd` and `nsqlookupd`: those on `PATH`, else built from `tests/nsq`.
pub static NSQD: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| match on_path("nsqd") {
    Some(dir) if dir.join("nsqlookupd").is_file() && std::env::var_os("CI").is_none() => Ok(dir),
    _ => GO.clone(),
});

/// A folder with `nsqd`, `nsqlookupd` and the go-nsq program `heartbeat`, built from `tests/nsq`.
pub static GO: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let dir = tools_dir("nsq");
    let out = format!("{}/", dir.display());
    run(Command::new("go").args(["build", "-o", &out, "tool", "./..."]).current_dir(source("tests/nsq")))?;
    Ok(dir)
});

/// A Python that has pynsq and grpcio.
pub static PYTHON: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let dir = tools_dir("python");
    let python = dir.join("bin/python");
    let requirements = source("tests/clients/python/requirements.txt");
    if run(Command::new(&python).args(["-c", "import nsq, grpc"])).is_err() {
        python_with(&dir, &requirements)?;
    }
    Ok(python)
});

/// What looks over a Dockerfile and Kubernetes manifests: a folder with `hadolint` and `kubernetes-validate`.
pub static LINTERS: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let dir = tools_dir("linters");
    let programs = dir.join("bin");
    if !programs.join("kubernetes-validate").is_file() || !programs.join("hadolint").is_file() {
        python_with(&dir, &source("tests/packaging/requirements.txt"))?;
    }
    Ok(programs)
});

/// A program that reads compose files as Docker Compose does, built from `tests/packaging`.
pub static COMPOSE: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let program = tools_dir("packaging").join("compose");
    run(Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg("./compose")
        .current_dir(source("tests/packaging")))?;
    Ok(program)
});

/// `systemd-analyze`.
pub static SYSTEMD_ANALYZE: LazyLock<Result<PathBuf, String>> =
    LazyLock::new(|| needed_on_path("systemd-analyze"));

/// A `node_modules` that has nsqjs, and axe-core.
pub static NODE: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let dir = tools_dir("node");
    let modules = dir.join("node_modules");
    if !modules.join("nsqjs").is_dir() || !modules.join("axe-core").is_dir() {
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            let from = source("tests/clients/node").join(file);
            std::fs::copy(from, dir.join(file)).map_err(|error| format!("{file}: {error}"))?;
        }
        run(Command::new("npm").args(["ci", "--silent"]).current_dir(&dir))?;
    }
    Ok(modules)
});

/// `unshare`, with what makes it give a process a PID namespace of its own.
pub static PID_NAMESPACE: LazyLock<Result<Vec<&str>, String>> = LazyLock::new(|| {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    let as_user = unshare.into_iter().chain(["--map-root-user"]).collect();
    let works = |words: &Vec<&str>| run(Command::new(words[0]).args(&words[1..]).arg("true"));
    let tried = [unshare.to_vec(), as_user].map(|words| works(&words).map(|()| words));
    let [as_root, as_user] = tried;
    as_root.or(as_user)
});

/// Debian's `promtool`, or another.
pub static PROMTOOL: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("promtool"));

/// `prometheus`, which comes with it.
pub static PROMETHEUS: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("prometheus"));

/// A Python without anything added.
pub static PYTHON3: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("python3"));

/// `chromedriver`, which comes with Chromium.
pub static CHROMEDRIVER: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("chromedriver"));

/// `chromium`.
pub static CHROMIUM: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("chromium"));

/// Both.
pub static BROWSER: LazyLock<Result<(), String>> = LazyLock::new(|| {
    CHROMEDRIVER.clone()?;
    CHROMIUM.clone().map(|_| ())
});

/// `curl`.
pub static CURL: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("curl"));

/// `prlimit`, of util-linux.
pub static PRLIMIT: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| needed_on_path("prlimit"));

/// The library of `faketime`, which changes the clock of one process.
pub static LIBFAKETIME: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().map_while(Result::ok);
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found =
        libraries.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|path| path.is_file());
    found.ok_or_else(|| "faketime is not installed".to_owned())
});

/// A resolver of names that can be held up.
pub static ENDLESS_LOOKUP: LazyLock<Result<(), String>> = LazyLock::new(EndlessLookup::tried);

/// Other proxies: `nginx` and `haproxy`.
pub static PEERS: LazyLock<Result<[PathBuf; 2], String>> =
    LazyLock::new(|| Ok([needed_on_path("nginx")?, needed_on_path("haproxy")?]));

/// A file of the repository.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Makes a Python in this folder that has what a file asks for.
fn python_with(dir: &Path, requirements: &Path) -> Result<(), String> {
    run(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
    run(Command::new(dir.join("bin/python")).args(quiet).arg(requirements))
}

fn tools_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|dir| dir.join(program).is_file())
}

/// Where a program is.
pub fn needed_on_path(program: &str) -> Result<PathBuf, String> {
    // Debian keeps servers where only root's `PATH` leads.
    let found = on_path(program)
        .or_else(|| Some(PathBuf::from("/usr/sbin")).filter(|dir| dir.join(program).is_file()));
    found.map(|dir| dir.join(program)).ok_or_else(|| format!("{program} is not on PATH"))
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
