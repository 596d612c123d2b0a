//! Random sequences of what an administrator does, and of what befalls a host, against a model that says what must be
//! true after each step: no data is lost that nobody asked to lose, and `status` tells no lie. `BLKSEAL_SEQUENCES` says how
//! many, `BLKSEAL_SEED` which.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::rounds::{chance, rounds};
use crate::support::shell::said;
use crate::support::{Disk, Host, Pattern, eventually, run};

/// Sequences in an ordinary run of the tests.
const USUAL: u64 = 6;
/// Steps of a sequence.
const STEPS: usize = 14;
/// Disks of a sequence.
const DISKS: usize = 2;
const SIZE: u64 = 20 << 20;
/// Where on a volume its mark is, and how long that is.
const MARK_AT: u64 = 1 << 20;
const MARK_LEN: usize = 64 << 10;

/// What is true of a disk.
#[derive(Clone, Debug, Default)]
struct Model {
    /// A volume's header is on it.
    is_volume: bool,
    /// The host knows the volume by its name.
    is_known: bool,
    is_open: bool,
    /// The image is not where it was.
    is_away: bool,
    /// What was written to the volume, by its seed.
    mark: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    CreateByForce,
    Open,
    Write,
    Close,
    Rekey,
    Forget,
    KillWorker,
    RestartDaemon,
    Unplug,
    Replug,
    OpenClone,
    Wipe,
    CreateInItsPlace,
}

const ALL: [Step; 14] = [
    Step::Create,
    Step::CreateByForce,
    Step::Open,
    Step::Write,
    Step::Close,
    Step::Rekey,
    Step::Forget,
    Step::KillWorker,
    Step::RestartDaemon,
    Step::Unplug,
    Step::Replug,
    Step::OpenClone,
    Step::Wipe,
    Step::CreateInItsPlace,
];

struct World {
    host: Host,
    disks: [Model; DISKS],
    told: Vec<String>,
}

impl World {
    fn new() -> Self {
        let host = Host::start();
        (0..DISKS).for_each(|disk| drop(host.image(&image(disk), SIZE)));
        Self { host, disks: Default::default(), told: Vec::new() }
    }

    fn path(&self, disk: usize) -> String {
        self.host.path(&image(disk))
    }

    fn away(&self, disk: usize) -> String {
        self.host.path(&format!("away{disk}"))
    }

    fn link(&self, disk: usize) -> PathBuf {
        self.host.path(&format!("dev/{}", name(disk))).into()
    }

    /// Runs a command, which must succeed if and only if the model says so.
    fn blkseal(&mut self, succeeds: bool, arguments: &[&str]) {
        let output = self.host.try_blkseal(arguments);
        self.told.push(format!("{arguments:?}: {}", output.status));
        assert_eq!(
            output.status.success(),
            succeeds,
            "{arguments:?}: {}{}\n{}",
            output.status,
            said(&output),
            self.story()
        );
    }

    fn story(&self) -> String {
        format!("{}\n{:?}\n{}", self.told.join("\n"), self.disks, self.host.log())
    }

    fn take(&mut self, step: Step, disk: usize, chance: &mut Pattern) {
        self.told.push(format!("{step:?} {disk}"));
        let (path, name, before) = (self.path(disk), name(disk), self.disks[disk].clone());
        match step {
            Step::Create => {
                let succeeds = !before.is_known && !before.is_volume && !before.is_away;
                self.blkseal(succeeds, &["create", &path, "--name", &name]);
                if succeeds {
                    self.disks[disk] = Model { is_volume: true, is_known: true, ..Model::default() };
                }
            }
            // Where the host knows the volume, not even by force.
            Step::CreateByForce if before.is_known => {
                self.blkseal(false, &["create", &path, "--name", "other", "--force", "--yes"]);
            }
            Step::Open if before.is_known => {
                let succeeds = before.is_volume && !before.is_open && !before.is_away;
                self.blkseal(succeeds, &["open", &name]);
                self.disks[disk].is_open |= succeeds;
            }
            Step::Open if before.is_volume && !before.is_away => {
                self.blkseal(true, &["open", &path, "--name", &name]);
                (self.disks[disk].is_known, self.disks[disk].is_open) = (true, true);
            }
            Step::Write if before.is_open => {
                let mark = chance.next();
                Disk::open(&self.link(disk), 0).write(MARK_AT, &bytes_of(mark)).unwrap();
                self.disks[disk].mark = Some(mark);
            }
            Step::Close => {
                run("udevadm settle");
                self.blkseal(before.is_open, &["close", &name]);
                self.disks[disk].is_open = false;
            }
            Step::Rekey if before.is_known => {
                self.host.blkseal(&["kek", "create", "keys"]);
                let succeeds = before.is_volume && !before.is_away;
                // The header of an open volume is there wherever its path leads.
                if !(before.is_open && before.is_away) {
                    self.blkseal(succeeds, &["rekey", "--kek", &name]);
                }
            }
            Step::Forget => {
                let succeeds = before.is_known && !before.is_open;
                self.blkseal(succeeds, &["forget", &name, "--yes"]);
                self.disks[disk].is_known &= !succeeds;
            }
            Step::KillWorker if before.is_open => self.kill_worker(disk),
            Step::RestartDaemon => {
                self.host.end_daemon("KILL");
                self.host.start_daemon();
                let key = self.host.path("key");
                self.blkseal(true, &["provider", "unlock", "keys", "--key-file", &key]);
            }
            Step::Unplug if !before.is_away => {
                fs::rename(&path, self.away(disk)).unwrap();
                self.disks[disk].is_away = true;
            }
            Step::Replug if before.is_away => {
                fs::rename(self.away(disk), &path).unwrap();
                self.disks[disk].is_away = false;
            }
            Step::OpenClone if before.is_open && !before.is_away => {
                let clone = self.host.path("clone");
                fs::copy(&path, &clone).unwrap();
                self.blkseal(false, &["open", &clone, "--name", "clone"]);
                fs::remove_file(clone).unwrap();
            }
            // Somebody else's doing, which blkseal cannot prevent and has to tell.
            Step::Wipe if before.is_volume && !before.is_open && !before.is_away => {
                run(&format!("dd if=/dev/zero of={path} bs=1M count=16 conv=notrunc status=none"));
                (self.disks[disk].is_volume, self.disks[disk].mark) = (false, None);
            }
            // Where a known volume's image was there is a blank one: the name is not free, nor is the place.
            Step::CreateInItsPlace if before.is_away && before.is_known => {
                self.host.image(&image(disk), SIZE);
                self.blkseal(false, &["create", &path, "--name", &name]);
                self.blkseal(false, &["create", &path, "--name", "other", "--force", "--yes"]);
                fs::remove_file(&path).unwrap();
            }
            _ => drop(self.told.pop()),
        }
    }

    fn kill_worker(&mut self, disk: usize) {
        let pid = self.status(disk)["device"]["pid"].as_u64().unwrap();
        Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        eventually(&format!("another worker\n{}", self.story()), || {
            let device = self.status(disk)["device"].clone();
            device["pid"].as_u64().is_some_and(|new| new != pid) && device["counters"].is_object()
        });
    }

    fn status(&self, disk: usize) -> serde_json::Value {
        self.host.json(&["status", &name(disk)])
    }

    /// What `status` says is what is.
    fn check(&self) {
        for (disk, model) in self.disks.iter().enumerate().filter(|(_, model)| model.is_known) {
            let status = self.status(disk);
            let (state, has_problem) = (status["state"].as_str().unwrap(), status["problem"].is_string());
            let expected = match model {
                Model { is_open: true, .. } => state == "live",
                Model { is_volume: true, is_away: false, .. } => state == "unlocked" && !has_problem,
                _ => state == "locked" && has_problem,
            };
            assert!(expected, "disk {disk}: {status}\n{}", self.story());
            if let (true, Some(mark)) = (model.is_open, model.mark) {
                self.check_mark(disk, mark);
            }
        }
    }

    fn check_mark(&self, disk: usize, mark: u64) {
        let stored = Disk::open(&self.link(disk), 0).read(MARK_AT, MARK_LEN).unwrap();
        assert!(stored == bytes_of(mark), "disk {disk} has other data\n{}", self.story());
    }

    /// Everything that was written and not wiped can be had again.
    fn end(mut self) {
        for disk in 0..DISKS {
            let model = self.disks[disk].clone();
            if model.is_open {
                run("udevadm settle");
                self.blkseal(true, &["close", &name(disk)]);
            }
            if model.is_away {
                fs::rename(self.away(disk), self.path(disk)).unwrap();
            }
            if let (true, Some(mark)) = (model.is_volume, model.mark) {
                let path = self.path(disk);
                match model.is_known {
                    true => self.blkseal(true, &["open", &name(disk)]),
                    false => self.blkseal(true, &["open", &path, "--name", &name(disk)]),
                }
                self.check_mark(disk, mark);
                run("udevadm settle");
                self.blkseal(true, &["close", &name(disk)]);
            }
        }
    }
}

fn image(disk: usize) -> String {
    format!("disk{disk}.img")
}

fn name(disk: usize) -> String {
    format!("vol{disk}")
}

fn bytes_of(mark: u64) -> Vec<u8> {
    Pattern::new(mark).bytes(MARK_LEN)
}

#[test]
fn whatever_happens_no_data_is_lost_and_status_tells_the_truth() {
    let (sequences, mut chance) = (rounds("BLKSEAL_SEQUENCES", USUAL), chance());
    for sequence in 0..sequences {
        let mut world = World::new();
        println!("sequence {sequence}");
        // Most of what can happen happens to volumes that are there.
        world.take(Step::Create, 0, &mut chance);
        world.take(Step::Open, 0, &mut chance);
        world.take(Step::Write, 0, &mut chance);
        for _ in 0..STEPS {
            let step = ALL[chance.below(ALL.len() as u64) as usize];
            world.take(step, chance.below(DISKS as u64) as usize, &mut chance);
            world.check();
        }
        world.end();
    }
}
