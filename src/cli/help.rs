//! What `--help` teaches beyond the options. The manual pages are made of the same text.

use std::fmt::Write;

use crate::control::FailureKind;

/// The first paragraphs of the long help.
pub const ABOUT: &str = "\
Encrypts the disks of a virtualization host below whatever uses them.

A volume is a block device or an image file with a LUKS2 header. While it is open, its plaintext is the block device \
/dev/blkseal/NAME, for a virtual machine or a file system; what reaches the backing is encrypted with AES-256-XTS. \
The volume's key is wrapped by a key encryption key (KEK), which a key provider keeps.

The daemon holds KEKs in locked memory and runs a worker process for each open volume. Every command but 'daemon', \
'completions' and 'man' asks the daemon.";

/// The end of the short help.
pub const SHORT: &str =
    "'blkseal --help' shows examples and exit codes, 'blkseal COMMAND --help' those of a command.";

const TOP: &str = "
  # a key provider on this host, and a volume on an image file
  systemctl start blkseald
  blkseal provider add native office
  truncate -s 10G /srv/vm1.img
  blkseal create /srv/vm1.img --name vm1
  blkseal open vm1
  mkfs.ext4 /dev/blkseal/vm1
  blkseal status vm1
  blkseal close vm1";

/// Examples of `provider`.
pub const PROVIDER: &str = "
  blkseal provider add native office      # asks for a passphrase
  blkseal provider list
  blkseal provider unlock office          # after the daemon was started
  blkseal provider lock office";

/// Examples of `provider add native`.
pub const PROVIDER_ADD: &str = "
  blkseal provider add native office
  blkseal provider add native office --key-file /root/office.key
  blkseal provider add native office --passphrase-fd 3 3</run/secrets/office
  blkseal provider add native office --store /mnt/usb/office.keys --default";

/// Examples of `provider add kmip`.
pub const PROVIDER_ADD_KMIP: &str = "
  blkseal provider add kmip office --server kms1 --server kms2:5697 --ca /etc/pki/kms-ca.pem
          --cert /etc/pki/host.pem --key /etc/pki/host.key
  blkseal provider add kmip lab --server 192.0.2.7 --trust-on-first-use
          --cert /etc/pki/host.pem --key /etc/pki/host.key --max-age 12h";

/// Examples of `provider set`.
pub const PROVIDER_SET: &str = "
  blkseal provider set office --server kms3 --server kms2:5697
  blkseal provider set lab --trust-on-first-use      # its certificate was renewed
  blkseal provider set office --cert /etc/pki/new.pem --key /etc/pki/new.key --max-age 1h";

/// Examples of `provider check`.
pub const PROVIDER_CHECK: &str = "
  blkseal provider check office
  blkseal provider check office --json | jq '.servers[].status.certificate.not_after'";

/// Examples of `provider passphrase`.
pub const PROVIDER_PASSPHRASE: &str = "\
  blkseal provider passphrase office      # asks for the old one, and twice for the new one
  blkseal provider passphrase office --key-file /root/old.key --new-key-file /root/new.key";

/// Examples of `provider unlock`.
pub const PROVIDER_UNLOCK: &str = "
  blkseal provider unlock office
  blkseal provider unlock office --key-file /root/office.key
  secret-tool lookup host vm-host-7 | blkseal provider unlock office --passphrase-fd 0";

/// Examples of `kek`.
pub const KEK: &str = "
  blkseal kek list office                 # with the volumes that need each
  blkseal kek create office               # new volumes use it from now on
  blkseal kek revoke office/9961dd3c-6b5e-4c0e-a1d5-2f6a0c1b7e11
  blkseal kek list --json | jq '.keks[] | select(.state == \"compromised\") | .volumes'";

/// Examples of `kek create`.
pub const KEK_CREATE: &str = "
  blkseal kek create office
  blkseal kek create office --inactive    # to be backed up before it is used
  blkseal kek activate office/12";

/// Examples of `kek revoke`.
pub const KEK_REVOKE: &str = "
  blkseal kek revoke office/12
  blkseal kek revoke office/12 --compromised --yes";

/// Examples of `rekey`.
pub const REKEY: &str = "
  blkseal kek create office && blkseal rekey --kek --all
  blkseal rekey --kek vm1 --to office/12
  blkseal rekey --kek --to cluster --all  # every volume to another provider
  blkseal rekey --kek --all --json | jq 'select(.result == \"failed\") | .volume'";

/// Examples of `adopt`.
pub const ADOPT: &str = "
  blkseal adopt /dev/vg0/vm5 --name vm5
  blkseal adopt /srv/vm6.img --provider office --key-file /root/vm6.key --remove-passphrases --yes
  blkseal adopt /dev/sdd --name vm7 --header /srv/headers/vm7.luks";

/// Examples of `release`.
pub const RELEASE: &str = "
  blkseal recovery add vm1
  blkseal close vm1
  blkseal release vm1
  cryptsetup open /srv/vm1.img vm1        # asks for the recovery passphrase";

/// Examples of `forget`.
pub const FORGET: &str = "
  blkseal forget vm1                      # its disk is gone
  blkseal forget vm1 --for-good --yes     # and shall open no more, should it turn up";

/// Examples of `erase`.
pub const ERASE: &str = "
  blkseal close vm1
  blkseal erase vm1
  blkseal erase /dev/vg0/vm2 --yes";

/// Examples of `create`.
pub const CREATE: &str = "
  truncate -s 10G /srv/vm1.img && blkseal create /srv/vm1.img
  blkseal create /dev/vg0/vm2 --name vm2 --provider office
  blkseal create /dev/vg0/vm4 --name vm4 --provider office --kek 12
  blkseal create /dev/sdb --name vm3 --header /srv/headers/vm3.luks
  blkseal create /dev/sdc --name old --sector-size 512 --force --yes";

/// Examples of `open`.
pub const OPEN: &str = "
  blkseal open vm1
  blkseal open /srv/from-elsewhere.img --name vm9
  blkseal open vm1 --read-only
  blkseal open vm1 --wait=5m              # for its key server to come back
  blkseal open vm1 --allow-discards --queues 4 --depth 128";

/// Examples of `close`.
pub const CLOSE: &str = "
  umount /dev/blkseal/vm1
  blkseal close vm1
  blkseal close vm1 --force               # no worker can be had; whoever uses it gets errors";

/// Examples of `list`.
pub const LIST: &str = "
  blkseal list
  blkseal list --json | jq -r '.volumes[] | select(.state == \"locked\") | .name'";

/// Examples of `status`.
pub const STATUS: &str = "
  blkseal status vm1
  blkseal status ./vm1.img
  blkseal status vm1 --json | jq .device.counters
  blkseal status                          # the daemon itself";

/// Examples of `events`.
pub const EVENTS: &str = "
  blkseal events --since 7d --volume vm1
  blkseal events --follow
  blkseal events --json | jq -r 'select(.result == \"NotPermitted\") | [.time, .uid, .verb, .volume] | @tsv'";

/// Examples of `recovery`.
pub const RECOVERY: &str = "
  blkseal recovery add vm1
  blkseal close vm1
  cryptsetup open /srv/vm1.img vm1-rescue # asks for the recovery passphrase
  blkseal recovery remove vm1 --all";

/// Examples of `recovery add`.
pub const RECOVERY_ADD: &str = "
  blkseal recovery add vm1
  blkseal recovery add vm1 --key-file /root/vm1.recovery
  blkseal recovery add vm1 --passphrase-fd 0 <passphrase.txt";

/// Examples of `recovery remove`.
pub const RECOVERY_REMOVE: &str = "
  blkseal recovery remove vm1 --keyslot 0
  blkseal recovery remove vm1 --all --yes";

/// Examples of `study`.
pub const STUDY: &str = "
  blkseal study null ceiling --size 1G
  fio --name=read --rw=randread --bs=4k --direct=1 --filename=/dev/blkseal/ceiling
  blkseal close ceiling
  blkseal study plain raw /dev/nvme1n1";

/// Examples of `daemon`.
pub const DAEMON: &str = "
  systemctl enable --now blkseald         # the usual way
  blkseal daemon                          # in the foreground
  blkseal daemon --state-dir /tmp/b/state --run-dir /tmp/b/run --dev-dir /tmp/b/dev
  blkseal --socket /tmp/b/run/daemon.sock status";

/// Examples of `completions`.
pub const COMPLETIONS: &str = "
  blkseal completions bash >/etc/bash_completion.d/blkseal
  blkseal completions zsh >/usr/local/share/zsh/site-functions/_blkseal
  blkseal completions fish >/etc/fish/completions/blkseal.fish";

/// Examples of `man`.
pub const MAN: &str = "
  blkseal man /usr/local/share/man/man1 && man blkseal-open";

/// The end of the long help of a command.
pub fn examples(examples: &str) -> String {
    format!("Examples:{examples}\n\nExit codes:\n  0 on success; 'blkseal --help' lists the others.")
}

/// The end of the long help of `blkseal` itself.
pub fn top() -> String {
    format!("Examples:{TOP}\n\nExit codes:\n{}", exit_codes())
}

/// A line an exit code.
fn exit_codes() -> String {
    let mut table = String::from("   0  it is done");
    for kind in FailureKind::ALL {
        let _ = write!(table, "\n  {:2}  {kind:?}: {}", kind.exit_code(), meaning(kind)); // a String takes all
    }
    table
}

fn meaning(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::WrongKey => "the passphrase, key file or key does not fit",
        FailureKind::Busy => "the volume, device or backing is in use",
        FailureKind::Waiting => "the volume stays locked, and opens by itself once its key is to be had",
        FailureKind::Refused => "the KEK's state forbids that, or the key server refuses it",
        FailureKind::InvalidArgument => "an argument makes no sense",
        FailureKind::BadData => "a header, token or size is damaged or unusable",
        FailureKind::NoInput => "a backing, header or key file is missing",
        FailureKind::NotFound => "no volume, provider or KEK of that name",
        FailureKind::NoDaemon => "no daemon or no worker answers",
        FailureKind::Internal => "a defect of blkseal itself",
        FailureKind::System => "the system refused something, a memory limit for example",
        FailureKind::NoUblk => "the kernel has no ublk driver",
        FailureKind::Exists => "the name is taken, or the backing holds data that would be lost",
        FailureKind::Io => "reading or writing failed",
        FailureKind::Locked => "the KEK is not to be had now; the same command may succeed later",
        FailureKind::Protocol => "client and daemon do not understand each other",
        FailureKind::NotPermitted => "the caller's user has no role that allows that",
        FailureKind::Config => "a configuration or state file is malformed",
    }
}
