//! A stand-in for the daemon.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use blkseal::control::{
    self, Availability, Certificate, Checked, Counters, DaemonCalls, Device, Erased, Event, EventPage,
    Events, Failure, FailureKind, Forgotten, Kek, KekState, Keks, KeyServer, KeyServerStatus, Met,
    MetCertificate, Peer, Provider, ProviderKind, ProviderSet, Providers, RecoveryAdded, RecoveryRemoved,
    Rekey, Rekeyed, SecretFd, Secrets, Service, TargetKind, Version, Volume, VolumeState, Volumes,
};
use serde_json::{Value, json};

/// Answers calls from a script, at a socket of its own.
pub struct Daemon {
    pub socket: PathBuf,
    script: Arc<Script>,
    _dir: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("daemon.sock");
        let listener = control::bind(&socket, 0o666).unwrap();
        let script = Arc::new(Script::default());
        let served = Arc::clone(&script);
        std::thread::spawn(move || control::serve(&served, &listener));
        Self { socket, script, _dir: dir }
    }

    /// The secrets that came since this was last asked.
    pub fn secrets(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.script.secrets.lock().unwrap())
    }

    /// The certificates that were pinned since this was last asked.
    /// The calls that gave a provider other settings, since this was asked last.
    pub fn settings(&self) -> Vec<ProviderSet> {
        std::mem::take(&mut self.script.settings.lock().unwrap())
    }

    pub fn pins(&self) -> Vec<String> {
        std::mem::take(&mut self.script.pins.lock().unwrap())
    }

    /// The volumes that were rekeyed since this was last asked.
    pub fn rekeyed(&self) -> Vec<String> {
        std::mem::take(&mut self.script.rekeyed.lock().unwrap())
    }

    /// Runs `during` while a call that has brought a secret, or is to rekey a volume, waits for its answer.
    pub fn hold_answers<T>(&self, during: impl FnOnce() -> T) -> T {
        let _held = self.script.answering.lock().unwrap();
        during()
    }
}

#[derive(Default)]
struct Script {
    secrets: Mutex<Vec<Vec<u8>>>,
    answering: Mutex<()>,
    pins: Mutex<Vec<String>>,
    settings: Mutex<Vec<ProviderSet>>,
    rekeyed: Mutex<Vec<String>>,
}

impl Script {
    fn keep(&self, secrets: &mut Secrets, index: SecretFd) -> Result<(), Failure> {
        let secret = secrets.take(index)?;
        self.secrets.lock().unwrap().push(secret.expose().to_vec());
        drop(self.answering.lock().unwrap());
        Ok(())
    }
}

impl Script {
    /// The newest KEK is `88bb1f42`; vm3 has it already, and vm2's is not to be had.
    fn rekey(&self, call: Rekey) -> Result<Rekeyed, Failure> {
        let Volume { name, provider, kek_id, .. } = find(&call.volume)?;
        self.rekeyed.lock().unwrap().push(name.to_string());
        drop(self.answering.lock().unwrap());
        if name.as_str() == "vm2" {
            return Err(Failure::new(FailureKind::Locked, "volume vm2: key provider lab is locked"));
        }
        Ok(Rekeyed {
            rewrapped: name.as_str() != "vm3",
            name,
            provider: call.provider.unwrap().to_string(),
            kek_id: call.kek_id.unwrap_or("88bb1f42".into()),
            old_provider: provider.unwrap(),
            old_kek_id: kek_id.unwrap(),
        })
    }
}

impl Service for Script {
    type Calls = DaemonCalls;

    fn answer(
        self: &Arc<Self>,
        _peer: &Peer,
        call: DaemonCalls,
        mut secrets: Secrets,
    ) -> Result<Value, Failure> {
        match call {
            DaemonCalls::Ping(_) => Ok(json!({})),
            DaemonCalls::GetVersion(_) => {
                let problems = vec!["/etc/blkseal/roles.toml cannot be used: line 3".into()];
                Ok(json!(Version { version: "0.1.0".into(), pid: 4711, ublk: true, problems }))
            }
            DaemonCalls::ProviderAdd(call) => {
                self.keep(&mut secrets, call.secret)?;
                let provider = provider(call.name.as_str());
                Ok(json!(Provider { file: call.file.or(provider.file.clone()), ..provider }))
            }
            DaemonCalls::ProviderAddKmip(call) => {
                self.pins.lock().unwrap().extend(call.pins.unwrap_or_default());
                let provider = provider(call.name.as_str());
                Ok(json!(Provider {
                    kind: ProviderKind::Kmip,
                    file: None,
                    servers: call.servers,
                    ..provider
                }))
            }
            DaemonCalls::ProviderSet(call) => {
                let servers = call.servers.clone().unwrap_or_else(|| vec!["kms1.example.org:5696".into()]);
                let provider = Provider {
                    kind: ProviderKind::Kmip,
                    file: None,
                    servers,
                    ..provider(call.name.as_str())
                };
                self.settings.lock().unwrap().push(call);
                Ok(json!(provider))
            }
            DaemonCalls::ProviderMeet(call) => {
                let mut servers = call.servers;
                if servers.is_empty() && call.name.is_some() {
                    servers.push("kms1.example.org:5696".into());
                }
                let met = |server| MetCertificate { server, certificate: certificate() };
                Ok(json!(Met { certificates: servers.into_iter().map(met).collect() }))
            }
            DaemonCalls::ProviderCheck(_) => Ok(json!(Checked {
                servers: vec![serving(), failing()],
                host: Some(Certificate { subject: "CN=vm-host-7".into(), ..certificate() }),
                host_good_until: Some("2026-12-31T00:00:00Z".into()),
                warning: None,
            })),
            DaemonCalls::ProviderList(_) => {
                Ok(json!(Providers { providers: vec![provider("lab"), provider("office")] }))
            }
            DaemonCalls::ProviderUnlock(call) => {
                self.keep(&mut secrets, call.secret)?;
                Ok(json!(Provider { availability: Availability::Ready, ..provider(call.name.as_str()) }))
            }
            DaemonCalls::ProviderReseal(call) => {
                self.keep(&mut secrets, call.secret)?;
                self.keep(&mut secrets, call.new_secret)?;
                Ok(json!(Provider { availability: Availability::Ready, ..provider(call.name.as_str()) }))
            }
            DaemonCalls::ProviderLock(call) => {
                Ok(json!(Provider { availability: Availability::Locked, ..provider(call.name.as_str()) }))
            }
            DaemonCalls::ProviderRemove(_) => Err(Failure::new(
                FailureKind::Busy,
                "key provider office still wraps the keys of 2 volumes: vm1, vm2",
            )),
            DaemonCalls::ProviderSetDefault(_) => Ok(json!({})),
            DaemonCalls::KekList(call) => {
                let problem = "key provider lab cannot be reached: no server answers";
                let problems = if call.provider.is_none() { vec![problem.into()] } else { vec![] };
                Ok(json!(Keks { keks: vec![revoked(), kek("f2c9a5d0"), unknown()], problems }))
            }
            DaemonCalls::KekShow(call) => Ok(json!(Kek { is_current: false, ..kek(&call.kek_id) })),
            DaemonCalls::KekCreate(call) => {
                let state = Some(if call.inactive { KekState::PreActive } else { KekState::Active });
                Ok(json!(Kek { state, is_current: !call.inactive, volumes: vec![], ..kek("0a1b") }))
            }
            DaemonCalls::KekActivate(call) => Ok(json!(Kek { volumes: vec![], ..kek(&call.kek_id) })),
            DaemonCalls::KekRevoke(call) => {
                let state = if call.compromised { KekState::Compromised } else { KekState::Deactivated };
                Ok(json!(Kek { state: Some(state), is_current: false, ..kek(&call.kek_id) }))
            }
            DaemonCalls::KekDestroy(call) => Ok(json!(Kek {
                state: Some(KekState::Destroyed),
                is_current: false,
                volumes: vec![],
                ..kek(&call.kek_id)
            })),
            DaemonCalls::Create(call) if !call.force => {
                let message = format!("{} holds an ext4 file system", call.backing.display());
                Err(Failure::new(FailureKind::Exists, message).hint("give --force to overwrite it"))
            }
            DaemonCalls::Create(call) => {
                Ok(json!(Volume { state: VolumeState::Unlocked, device: None, ..volume(call.name.as_str()) }))
            }
            DaemonCalls::Open(call) if ["vm2", "vm5", "vm6"].contains(&call.volume.as_str()) => {
                let (kind, more) = match call.keep_trying {
                    Some(false) => (FailureKind::Locked, ""),
                    _ => (FailureKind::Waiting, "; the volume stays locked"),
                };
                Err(Failure::new(kind, format!("key provider lab is locked{more}")).hint("unlock it"))
            }
            DaemonCalls::Open(call) => {
                let mut volume = find(&call.volume)?;
                volume.notice = Some("the second copy of the header was damaged and is repaired".into());
                Ok(json!(volume))
            }
            DaemonCalls::OpenTarget(call) => {
                Ok(json!(Volume { target: call.target, size: call.size, ..volume(call.name.as_str()) }))
            }
            DaemonCalls::Close(call) => find(&call.volume).map(|_| json!({})),
            DaemonCalls::List(_) => {
                Ok(json!(Volumes { volumes: vec![volume("vm1"), locked(), quiesced(), plain()] }))
            }
            DaemonCalls::Status(call) => find(&call.volume).map(|volume| json!(volume)),
            DaemonCalls::Events(call) => events(&call).map(|page| json!(page)),
            DaemonCalls::RecoveryAdd(call) => {
                self.keep(&mut secrets, call.secret)?;
                Ok(json!(RecoveryAdded { keyslot: 1 }))
            }
            DaemonCalls::RecoveryRemove(call) => {
                let keyslots = call.keyslot.map_or(vec![0, 1], |keyslot| vec![keyslot]);
                Ok(json!(RecoveryRemoved { keyslots }))
            }
            DaemonCalls::Adopt(call) if call.backing.ends_with("passwd") => {
                self.keep(&mut secrets, call.secret)?;
                Err(Failure::new(FailureKind::BadData, "/etc/passwd has no LUKS2 header"))
            }
            DaemonCalls::Adopt(call) => {
                self.keep(&mut secrets, call.secret)?;
                let recovery_keyslots = if call.remove_passphrases { vec![] } else { vec![0] };
                let volume = volume(call.name.as_str());
                Ok(json!(Volume { state: VolumeState::Unlocked, device: None, recovery_keyslots, ..volume }))
            }
            DaemonCalls::Release(call) => {
                find(&call.volume)?;
                let failure = Failure::new(FailureKind::Busy, "volume vm1 is open");
                if call.volume == "vm1" { Err(failure.hint("close it first")) } else { Ok(json!({})) }
            }
            DaemonCalls::Forget(call) => {
                let Volume { name, uuid, .. } = find(&call.volume)?;
                let uuid = uuid.unwrap_or_default();
                let (provider, kek_id, for_good) = ("office".into(), "12".into(), call.for_good);
                Ok(json!(Forgotten { name, uuid, provider, kek_id, for_good }))
            }
            DaemonCalls::Erase(call) => {
                let Volume { name, uuid, .. } = find(&call.volume)?;
                let uuid = uuid.unwrap_or_default();
                let needed_by = if call.volume == "vm1" { vec![] } else { vec![volume("vm1").name] };
                Ok(json!(Erased { name, uuid, provider: "office".into(), kek_id: "12".into(), needed_by }))
            }
            DaemonCalls::Rekey(call) => self.rekey(call).map(|rekeyed| json!(rekeyed)),
        }
    }
}

fn find(name: &str) -> Result<Volume, Failure> {
    match name {
        "vm1" | "vm5" => Ok(volume(name)),
        "vm6" => Ok(Volume { wanted: false, ..locked() }),
        "vm2" => Ok(locked()),
        "vm3" => Ok(quiesced()),
        "raw" => Ok(plain()),
        _ => Err(Failure::new(FailureKind::NotFound, format!("there is no volume '{name}'"))
            .hint("'blkseal list' shows them all")),
    }
}

/// Two pages, a third that comes while somebody waits, and then the end of the daemon.
fn events(call: &Events) -> Result<EventPage, Failure> {
    let event = |verb: &str| Event {
        time: "2026-11-23T10:00:00.123456Z".into(),
        verb: verb.into(),
        result: "ok".into(),
        ..Event::default()
    };
    let opened = Event {
        uid: Some(0),
        pid: Some(4711),
        volume: Some("vm1".into()),
        uuid: volume("vm1").uuid,
        provider: Some("office".into()),
        kek_id: Some("f2c9a5d0".into()),
        ..event("open")
    };
    let refused = Event {
        uid: Some(4001),
        pid: Some(99),
        provider: Some("office".into()),
        result: "NotPermitted".into(),
        message: Some("user 4001 has no role\u{1b}[2J".into()),
        ..event("provider lock")
    };
    let failover = Event {
        provider: Some("cluster".into()),
        server: Some("kms2:5696".into()),
        message: Some("key server kms2:5696 is used now".into()),
        ..event("failover")
    };
    let (events, next, more) = match (call.after, call.wait) {
        (None, _) if call.volume.as_deref() == Some("vm9") => (vec![], 200, false),
        (None, _) => (vec![opened], 100, true),
        (Some(100), _) => (vec![refused], 200, false),
        (Some(200), Some(_)) => (vec![failover], 300, false),
        _ => return Err(Failure::new(FailureKind::NoDaemon, "the daemon ends")),
    };
    Ok(EventPage { events, next, more })
}

fn certificate() -> Certificate {
    Certificate {
        subject: "CN=kms1.example.org".into(),
        issuer: "CN=Example Authority".into(),
        not_before: "2026-01-01T00:00:00Z".into(),
        not_after: "2027-01-01T00:00:00Z".into(),
        fingerprint: "BA:78:16:BF".into(),
    }
}

fn serving() -> KeyServer {
    let status = KeyServerStatus {
        address: "192.0.2.7:5696".into(),
        tls: "TLS 1.3".into(),
        cipher: "TLS13_AES_256_GCM_SHA384".into(),
        certificate: Some(certificate()),
        versions: vec!["1.4".into(), "1.3".into()],
        vendor: Some("Example 1.0".into()),
        latency_us: 1234,
        operations: vec!["Create".into(), "Get".into()],
    };
    KeyServer { server: "kms1.example.org:5696".into(), problem: None, hint: None, status: Some(status) }
}

fn failing() -> KeyServer {
    KeyServer {
        server: "kms2.example.org:5696".into(),
        problem: Some("its certificate has expired".into()),
        hint: Some("check the certificate's dates".into()),
        status: None,
    }
}

fn provider(name: &str) -> Provider {
    Provider {
        name: name.parse().unwrap(),
        kind: ProviderKind::Native,
        is_default: name == "office",
        availability: if name == "lab" { Availability::Locked } else { Availability::Ready },
        file: Some(format!("/etc/blkseal/{name}.keys").into()),
        servers: Vec::new(),
        kek_id: (name != "lab").then(|| "f2c9a5d0".into()),
        volumes: u32::from(name == "office") * 2,
    }
}

fn kek(id: &str) -> Kek {
    Kek {
        provider: "office".parse().unwrap(),
        kek_id: id.into(),
        state: Some(KekState::Active),
        created: Some("2026-01-01T00:00:00Z".into()),
        is_current: true,
        volumes: vec!["vm1".parse().unwrap(), "vm3".parse().unwrap()],
    }
}

fn revoked() -> Kek {
    let volumes = ["db1", "db2", "db3", "db4"].map(|name| name.parse().unwrap()).to_vec();
    Kek { state: Some(KekState::Compromised), is_current: false, volumes, ..kek("77aa0e31") }
}

fn unknown() -> Kek {
    let volumes = vec!["old".parse().unwrap()];
    Kek { state: None, created: None, is_current: false, volumes, ..kek("12") }
}

fn volume(name: &str) -> Volume {
    Volume {
        name: name.parse().unwrap(),
        uuid: Some("7c1f6f0e-66ad-4a6e-9d6c-1f4d3d7c8f10".parse().unwrap()),
        target: TargetKind::Crypt,
        backing: Some(format!("/srv/{name}.img").into()),
        header: None,
        state: VolumeState::Live,
        wanted: false,
        problem: None,
        notice: None,
        size: Some(240 << 20),
        sector_size: Some(4096),
        cipher: Some("aes-xts-plain64".into()),
        key_bits: Some(512),
        provider: Some("office".into()),
        kek_id: Some("f2c9a5d0".into()),
        recovery_keyslots: vec![0],
        device: Some(device(name)),
    }
}

fn device(name: &str) -> Device {
    let counters = Counters { reads: 12, read_bytes: 49152, errors: 1, ..Counters::default() };
    Device {
        node: "/dev/ublkb0".into(),
        link: format!("/dev/blkseal/{name}").into(),
        pid: Some(4712),
        cpu_path: Some("portable".into()),
        key_memory: Some("memfd_secret".into()),
        queues: 2,
        threads: Some(1),
        depth: 64,
        spin_us: None,
        max_io_bytes: 256 << 10,
        discards: false,
        read_only: false,
        counters: Some(counters),
    }
}

fn locked() -> Volume {
    let problem = "key provider lab is locked\u{1b}[2J".to_owned();
    Volume {
        state: VolumeState::Locked,
        wanted: true,
        problem: Some(problem),
        provider: Some("lab".into()),
        header: Some("/srv/headers/vm2.luks".into()),
        recovery_keyslots: vec![],
        device: None,
        ..volume("vm2")
    }
}

fn quiesced() -> Volume {
    let device = Device { counters: None, read_only: true, discards: true, ..device("vm3") };
    let recovery_keyslots = vec![0, 1];
    Volume { state: VolumeState::Quiesced, device: Some(device), recovery_keyslots, ..volume("vm3") }
}

fn plain() -> Volume {
    Volume {
        uuid: None,
        target: TargetKind::Plain,
        cipher: None,
        key_bits: None,
        provider: None,
        kek_id: None,
        recovery_keyslots: vec![],
        ..volume("raw")
    }
}
