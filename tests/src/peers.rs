//! Real programs that tests need. Where one is missing, a line says what, and how to get it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Says that a test goes on without what it needs.
pub fn missing(what: &str, how: &str) {
    eprintln!("not tested here: {what} is missing; {how}");
}

/// A Python with the modules of `tests/peers/requirements.txt`.
#[derive(Clone, Debug)]
pub struct Python(PathBuf);

impl Python {
    /// The interpreter that `make test` prepares (`SENDLAKE_TEST_PYTHON`), or the system's, if it has `modules`.
    pub fn with(modules: &[&str]) -> Option<Self> {
        let python: PathBuf =
            std::env::var_os("SENDLAKE_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
        let import = format!("import {}", modules.join(", "));
        let works = Command::new(&python).args(["-c", &import]).stderr(Stdio::null()).status();
        if works.is_ok_and(|status| status.success()) {
            return Some(Self(python));
        }
        missing(
            &format!("a Python with {}", modules.join(" and ")),
            "`make test` prepares one, or install tests/peers/requirements.txt and name the interpreter in \
             SENDLAKE_TEST_PYTHON",
        );
        None
    }

    /// The interpreter, without a script.
    pub fn command(&self) -> Command {
        Command::new(&self.0)
    }

    /// A program that was installed with it.
    pub fn beside(&self, program: &str) -> PathBuf {
        self.environment().join("bin").join(program)
    }

    /// The folder of the virtual environment.
    pub fn environment(&self) -> &Path {
        self.0.parent().and_then(Path::parent).unwrap_or(Path::new("/"))
    }

    /// A file of an installed module; `None` when there is no such module.
    pub fn file(&self, module: &str, path: &str) -> Option<PathBuf> {
        let code = format!(
            "import importlib.util as u; print(u.find_spec({module:?}).submodule_search_locations[0])"
        );
        let output = self.command().args(["-c", &code]).stderr(Stdio::null()).output().ok()?;
        let folder = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Some(Path::new(folder.trim()).join(path))
    }

    pub fn script(&self, script: &str) -> Command {
        let mut command = self.command();
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script));
        command
    }

    /// Runs a script of `tests/peers` that prints JSON.
    pub fn ask(&self, script: &str, args: &[&str]) -> Value {
        self.try_ask(script, args).unwrap_or_else(|said| panic!("{script} {args:?}: {said}"))
    }

    /// The same in a working directory.
    pub fn ask_in(&self, dir: &Path, script: &str, args: &[&str]) -> Value {
        answer(self.script(script).args(args).current_dir(dir))
            .unwrap_or_else(|said| panic!("{script} {args:?}: {said}"))
    }

    /// For a script that may fail; then what it said.
    pub fn try_ask(&self, script: &str, args: &[&str]) -> Result<Value, String> {
        answer(self.script(script).args(args))
    }
}

/// What a script printed as JSON.
fn answer(script: &mut Command) -> Result<Value, String> {
    let output = script.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let answer = serde_json::from_str(&out).map_err(|error| format!("{error}: {out}{err}"));
    if output.status.success() { answer } else { Err(format!("{out}{err}")) }
}

/// A process that ends with the test.
pub struct Peer(Child);

impl Peer {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl From<Child> for Peer {
    fn from(process: Child) -> Self {
        Self(process)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `tests/peers/smtp_sink.py`: aiosmtpd with STARTTLS; the recipient's local part picks the answer.
pub struct SmtpSink {
    pub addr: SocketAddr,
    dir: PathBuf,
    _process: Peer,
}

/// One message that the sink took.
#[derive(Debug)]
pub struct Taken {
    pub tls: bool,
    pub from: String,
    pub to: String,
    /// Where its octets lie.
    pub file: PathBuf,
}

impl Taken {
    pub fn octets(&self) -> Vec<u8> {
        std::fs::read(&self.file).unwrap()
    }

    /// A header field, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let octets = self.octets();
        let text = String::from_utf8_lossy(&octets);
        let head = text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

impl SmtpSink {
    /// Listens on a free port, and keeps what it takes under `dir`.
    pub fn start(python: &Python, dir: &Path) -> Self {
        let dir = dir.join("sink");
        std::fs::create_dir_all(&dir).unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["mx.sink.test".to_owned()]).unwrap();
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        let mut process =
            python.script("smtp_sink.py").args([&cert, &key, &dir]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addr = line.trim().parse().unwrap_or_else(|_| panic!("the sink said {line:?}"));
        Self { addr, dir, _process: Peer(process) }
    }

    /// What it took so far, in order.
    pub fn taken(&self) -> Vec<Taken> {
        let log = std::fs::read_to_string(self.dir.join("taken.jsonl")).unwrap_or_default();
        let entry = |line: &str| {
            let entry: Value = serde_json::from_str(line).unwrap();
            Taken {
                tls: entry["tls"].as_bool().unwrap(),
                from: entry["from"].as_str().unwrap().to_owned(),
                to: entry["to"].as_str().unwrap().to_owned(),
                file: self.dir.join(entry["file"].as_str().unwrap()),
            }
        };
        log.lines().map(entry).collect()
    }

    /// The one message that went to this recipient.
    #[track_caller]
    pub fn taken_by(&self, recipient: &str) -> Taken {
        let mut taken: Vec<_> = self.taken().into_iter().filter(|taken| taken.to == recipient).collect();
        assert_eq!(taken.len(), 1, "messages to {recipient}: {taken:?}");
        taken.remove(0)
    }
}

/// A port that was free a moment ago, for peers that cannot choose one themselves.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether a program is on the path (or where system programs lie).
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Compiles `peers/<name>.c` into a library that is loaded before a program (`LD_PRELOAD`): `<folder>/<name>.so`. `None`,
/// with a line that says so, where there is no C compiler.
pub fn preloaded(name: &str, folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name).with_extension("c");
    let library = folder.join(name).with_extension("so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    if !cfg!(target_os = "linux") || compiler.arg("-ldl").status().is_err() {
        missing("a C compiler on Linux", "install one as `cc`");
        return None;
    }
    assert!(library.exists(), "{name}.c does not compile");
    Some(library)
}
