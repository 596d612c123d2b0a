//! The machine, in words: what a reader needs to know to judge figures.

use std::fs;

use serde::{Deserialize, Serialize};

use super::commands;

/// What measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// What the kernel was started with.
    pub kernel_arguments: String,
    /// The processor's name.
    pub cpu: String,
    /// Those of its instructions that matter here.
    pub cpu_flags: Vec<String>,
    /// Processors.
    pub cpus: usize,
    /// MiB of memory.
    pub memory_mib: u64,
    /// What emulates or divides the machine, where it is not a real one.
    pub virtual_by: Option<String>,
    /// blkseal's version.
    pub blkseal: String,
    /// How blkseal computes AES.
    pub cpu_path: Option<String>,
    /// How the kernel computes the same for dm-crypt: its driver for xts(aes).
    pub kernel_cipher: Option<String>,
    /// fio's version.
    pub fio: String,
    /// cryptsetup's version.
    pub cryptsetup: String,
    /// bpftrace's version, where it is.
    #[serde(default)]
    pub bpftrace: Option<String>,
    /// The machine around a virtual one that the study started itself.
    #[serde(default)]
    pub around: Option<Around>,
}

/// A machine that runs another one, as far as that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Around {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors.
    pub cpus: usize,
}

impl Around {
    /// This machine.
    pub fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&cpuinfo, "model name").unwrap_or_default().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl Host {
    /// This machine. What cannot be told is left empty: a study does not fail for it.
    pub fn new(blkseal: &str, cpu_path: Option<String>) -> Self {
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let version = |program| commands::run(program, &["--version"]).unwrap_or_default();
        let Around { kernel, cpu, cpus } = Around::here();
        Self {
            kernel,
            kernel_arguments: read("/proc/cmdline").trim().to_owned(),
            cpu,
            cpu_flags: interesting_flags(&cpuinfo),
            cpus,
            memory_mib: field(&meminfo, "MemTotal").map_or(0, kib_to_mib),
            virtual_by: virtual_by(
                &cpuinfo,
                // QEMU's version is in that of its machine.
                &["sys_vendor", "product_version"].map(|name| read(&format!("/sys/class/dmi/id/{name}"))),
            ),
            blkseal: version(blkseal),
            cpu_path,
            kernel_cipher: kernel_cipher(&read("/proc/crypto")),
            fio: version("fio"),
            cryptsetup: version("cryptsetup"),
            bpftrace: Some(version("bpftrace")).filter(|version| !version.is_empty()),
            around: None,
        }
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn kib_to_mib(text: &str) -> u64 {
    text.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

fn interesting_flags(cpuinfo: &str) -> Vec<String> {
    let flags = field(cpuinfo, "flags").unwrap_or_default().split(' ');
    flags
        .filter(|flag| ["aes", "avx2", "avx512f", "vaes", "vpclmulqdq"].contains(flag))
        .map(str::to_owned)
        .collect()
}

fn virtual_by(cpuinfo: &str, names: &[String]) -> Option<String> {
    let in_vm =
        field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let names: Vec<_> = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()).collect();
    in_vm.then(|| if names.is_empty() { "a hypervisor".to_owned() } else { names.join(", ") })
}

/// The driver for xts(aes) with the highest priority, as the kernel takes it.
fn kernel_cipher(crypto: &str) -> Option<String> {
    let drivers = crypto.split("\n\n").filter(|block| field(block, "name") == Some("xts(aes)"));
    let ranked = drivers.filter_map(|block| {
        let priority: u32 = field(block, "priority")?.parse().ok()?;
        Some((priority, field(block, "driver")?.to_owned()))
    });
    ranked.max().map(|(_, driver)| driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_driver_with_the_highest_priority() {
        let crypto = "name : xts(aes)\ndriver : slow\npriority : 100\n\nname : cbc(aes)\ndriver : other\npriority : \
                      900\n\nname : xts(aes)\ndriver : fast\npriority : 500\n";
        assert_eq!(kernel_cipher(crypto).as_deref(), Some("fast"));
        assert_eq!(kernel_cipher(""), None);
    }

    #[test]
    fn an_emulated_machine_is_named() {
        let names = ["QEMU\n", "pc-q35-10.0\n"].map(str::to_owned);
        assert_eq!(virtual_by("flags : aes hypervisor avx", &names).as_deref(), Some("QEMU, pc-q35-10.0"));
        assert_eq!(virtual_by("flags : hypervisor", &[String::new()]).as_deref(), Some("a hypervisor"));
        assert_eq!(virtual_by("flags : aes avx", &["Dell".to_owned()]), None);
    }
}
