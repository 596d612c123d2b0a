//! The oracle is the stock `cryptsetup` binary, which works on plain files without device mapper.

mod adopt;
mod changes;
mod crash;
mod format;
mod look;
mod open;
mod refusals;
mod token;
mod trace;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use ublk_targets::secret::{Dek, Kek, Secret};

use super::*;
use crate::provider::wrap;

const MIB: u64 = 1024 * 1024;

/// A directory for images, gone at the end.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of `size` bytes whose content is not all zeroes.
    fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let mut content = vec![0; size as usize];
        content.iter_mut().step_by(509).for_each(|byte| *byte = 0xa5);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A volume key in a file, for cryptsetup.
    fn key_file(&self, dek: &Dek) -> PathBuf {
        let path = self.path("volume.key");
        std::fs::write(&path, dek.expose()).unwrap();
        path
    }

    /// A fresh volume with an attached header on a 20 MiB file.
    fn volume(&self) -> (Header, Dek) {
        let (dek, token) = key();
        let place = Place::attached(self.image("volume", 20 * MIB));
        (format(&place, &FormatOptions::default(), &dek, &token).unwrap(), dek)
    }
}

fn format(place: &Place, options: &FormatOptions, dek: &Dek, token: &Token) -> Result<Header, LuksError> {
    prepare(place, options, dek, token)?.write()
}

fn key() -> (Dek, Token) {
    let dek = Dek::generate().unwrap();
    let token = token_for(&dek, "kek-1");
    (dek, token)
}

fn token_for(dek: &Dek, kek_id: &str) -> Token {
    let wrapped_dek = wrap::wrap(&Kek::generate().unwrap(), dek).unwrap();
    Token { provider: "vault".parse().unwrap(), kek_id: kek_id.parse().unwrap(), wrapped_dek }
}

fn secret(text: &[u8]) -> Secret {
    let mut secret = Secret::zeroed(text.len()).unwrap();
    secret.expose_mut().copy_from_slice(text);
    secret
}

/// Runs cryptsetup with `input` at its standard input: whether it succeeded, and what it printed.
fn try_cryptsetup(arguments: &[&str], paths: &[&Path], input: &[u8]) -> (bool, Vec<u8>) {
    use std::io::Write;
    let mut child = Command::new("cryptsetup")
        .args(arguments)
        .args(paths)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("these tests need cryptsetup");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { (true, output.stdout) } else { (false, error.into_bytes()) }
}

fn cryptsetup(arguments: &[&str], paths: &[&Path], input: &[u8]) -> String {
    let (success, output) = try_cryptsetup(arguments, paths, input);
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(success, "cryptsetup {arguments:?} {paths:?}: {output}");
    output
}

/// Makes a LUKS2 volume with cryptsetup, opened by the passphrase `stock`.
fn stock_volume(path: &Path, key_file: &Path, more: &[&str]) {
    let mut arguments = vec!["luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let key_file = format!("--volume-key-file={}", key_file.display());
    arguments.push(&key_file);
    arguments.extend(more);
    cryptsetup(&arguments, &[path], b"stock");
}

fn import_token(path: &Path, json: &str) {
    cryptsetup(&["token", "import"], &[path], json.as_bytes());
}

fn overwrite(path: &Path, offset: u64, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(content, offset).unwrap();
}
