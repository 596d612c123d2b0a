//! An authority, and certificates that it signs or that look as if it did.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

/// A certificate and its key, as files.
pub struct Leaf {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// An authority with the certificates that it signed, in a directory of their own.
pub struct Pki {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// With a certificate for this host, `host`, and one for the servers at 127.0.0.1, `server`.
    pub fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut params = CertificateParams::default();
        let name = directory.path().file_name().unwrap().to_string_lossy();
        params.distinguished_name.push(DnType::CommonName, format!("Authority {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        write(&directory.path().join("ca.pem"), &ca.pem(), 0o644);
        let pki = Self { directory, issuer: Issuer::new(params, key) };
        pki.client("host");
        pki.server("server", &["127.0.0.1", "localhost"], 2099);
        pki
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.pem"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.key"))
    }

    /// The certificate of that name, and its key.
    pub fn leaf_of(&self, name: &str) -> Leaf {
        Leaf { certificate: self.certificate(name), key: self.key(name) }
    }

    /// A certificate for the client called `name`.
    pub fn client(&self, name: &str) -> Leaf {
        self.leaf(name, &[], ExtendedKeyUsagePurpose::ClientAuth, 2099)
    }

    /// One that is good between these two times, in seconds since 1970.
    pub fn client_between(&self, name: &str, from: i64, until: i64) -> Leaf {
        let since = date_time_ymd(1970, 1, 1);
        let at = |seconds: i64| since + Duration::from_secs(seconds as u64);
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let mut params = params(name, &[], usage);
        (params.not_before, params.not_after) = (at(from), at(until));
        self.sign(name, &params)
    }

    /// A certificate for a server with these names, good until the start of `year`.
    pub fn server(&self, file: &str, names: &[&str], year: i32) -> Leaf {
        self.leaf(file, names, ExtendedKeyUsagePurpose::ServerAuth, year)
    }

    fn leaf(&self, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose, year: i32) -> Leaf {
        let mut params = params(name, names, usage);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let leaf = Leaf { certificate: self.certificate(name), key: self.key(name) };
        write(&leaf.certificate, &certificate.pem(), 0o644);
        write(&leaf.key, &key.serialize_pem(), 0o600);
        leaf
    }
}

fn params(name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    params
}

pub fn write(path: &Path, content: &str, mode: u32) {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}
