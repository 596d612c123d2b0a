//! A change of a header that is cut off anywhere: libcryptsetup makes it in a process of its own, every system call of
//! which is watched; then every image is made that a power failure may have left, and opened.

use std::collections::BTreeSet;
use std::fs;

use super::trace::{Step, steps};
use super::*;
use crate::luks::unlock;

/// Both copies of the header.
const HEADER: usize = 32 * 1024;
const BLOCK: usize = 512;
/// Names the file with the new token to the process that makes the change, and the header.
const TOKEN: &str = "BLKSEAL_TEST_TOKEN";
const VOLUME: &str = "BLKSEAL_TEST_VOLUME";

/// The processes that are watched: not tests by themselves.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn exchange_the_token() {
    let Some(volume) = std::env::var_os(VOLUME) else { return };
    open(&Place::attached(volume)).unwrap().replace_token(given_token()).unwrap();
}

#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn add_the_token() {
    let Some(volume) = std::env::var_os(VOLUME) else { return };
    unlock(&Place::attached(volume), &secret(b"rescue")).unwrap().adopt(&given_token()).unwrap();
}

#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn take_the_token_away() {
    let Some(volume) = std::env::var_os(VOLUME) else { return };
    open(&Place::attached(volume)).unwrap().release().unwrap();
}

fn given_token() -> Token {
    Token::parse(&fs::read_to_string(std::env::var_os(TOKEN).unwrap()).unwrap()).unwrap()
}

fn watched(change: &str, path: &Path, token: &Path) -> Vec<Step> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("luks::tests::crash::{change}"), "--ignored"]);
    command.env(VOLUME, path).env(TOKEN, token).stdout(Stdio::null());
    steps(&mut command, path, HEADER)
}

/// What may be in each block that was written between two syncs, one of them being what was there before.
struct Epoch {
    base: Vec<u8>,
    blocks: Vec<(usize, Vec<Vec<u8>>)>,
}

impl Epoch {
    /// `images` are the header before, and after each write.
    fn new(images: &[Vec<u8>]) -> Self {
        let base = images[0].clone();
        let versions = |at: usize| {
            let distinct: BTreeSet<_> = images.iter().map(|image| image[at..at + BLOCK].to_vec()).collect();
            (at, distinct.into_iter().collect::<Vec<_>>())
        };
        let blocks = (0..HEADER).step_by(BLOCK).map(versions).filter(|(_, all)| all.len() > 1).collect();
        Self { base, blocks }
    }

    /// Every image that the medium may hold if the power fails before the sync: any subset of the blocks, each as a
    /// whole, in any order (`docs/FORMAT.md`, assumption 2). What a torn write leaves is among them.
    fn images(&self) -> Vec<Vec<u8>> {
        self.blocks.iter().fold(vec![self.base.clone()], |images, (at, versions)| {
            let with = |image: &Vec<u8>, version: &Vec<u8>| {
                let mut image = image.clone();
                image[*at..*at + BLOCK].copy_from_slice(version);
                image
            };
            images.iter().flat_map(|image| versions.iter().map(move |version| with(image, version))).collect()
        })
    }
}

/// The token that stock cryptsetup sees, if there is one.
fn stock_token(path: &Path) -> Option<Token> {
    let json = cryptsetup(&["luksDump", "--dump-json-metadata"], &[path], b"");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["tokens"].get("0").map(|token| Token::from_json(token.clone()).unwrap())
}

/// The token that blkseal sees, if there is one.
fn own_token(place: &Place) -> Option<Token> {
    match open(place) {
        Ok(header) => Some(header.token),
        Err(LuksError::Token { source: TokenError::Missing, .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_token_exchange_cut_off_anywhere_leaves_one_of_the_two_and_nothing_else() {
    let bench = Bench::new();
    let (header, dek) = bench.volume();
    let new = token_for(&dek, &"k".repeat(255));
    cut_off_anywhere(&bench, header, &dek, "exchange_the_token", Some(new));
}

#[test]
fn an_adoption_cut_off_anywhere_leaves_the_volume_as_it_was_or_adopted() {
    let bench = Bench::new();
    let (header, dek) = bench.volume();
    cryptsetup(&["token", "remove", "--token-id=0"], &[&header.place.backing], b"");
    let new = token_for(&dek, "kek-2");
    cut_off_anywhere(&bench, header, &dek, "add_the_token", Some(new));
}

#[test]
fn a_release_cut_off_anywhere_leaves_the_volume_as_it_was_or_released() {
    let bench = Bench::new();
    let (header, dek) = bench.volume();
    cut_off_anywhere(&bench, header, &dek, "take_the_token_away", None);
}

/// Has a process of its own make `change` to a volume, which the passphrase `rescue` opens throughout; what is left of it at
/// any instant has the token of before or `new`.
fn cut_off_anywhere(bench: &Bench, header: Header, dek: &Dek, change: &str, new: Option<Token>) {
    let place = header.place;
    let path = place.backing.clone();
    add_rescue(&place, dek);
    let old = own_token(&place);
    let text = new.as_ref().map(|token| token.to_json().to_string());
    fs::write(bench.path("token"), text.unwrap_or_default()).unwrap();
    let before = fs::read(&path).unwrap();
    let recorded = watched(change, &path, &bench.path("token"));
    let after = fs::read(&path).unwrap();
    assert!(before[HEADER..] == after[HEADER..], "nothing but the two copies is written");
    assert_eq!(own_token(&place), new);

    // Between two syncs there is what one of them left, and what was written since.
    let mut epochs = vec![vec![before[..HEADER].to_vec()]];
    for step in recorded {
        let current = epochs.last_mut().unwrap();
        match step {
            Step::Wrote(image) => current.push(image),
            Step::Synced => {
                let image = current.last().unwrap().clone();
                epochs.push(vec![image]);
            }
        }
    }
    let written: Vec<usize> = epochs.iter().map(|epoch| epoch.len() - 1).collect();
    assert_eq!(written, [3, 3, 0], "three writes and a sync for each copy");

    let put = |image: &[u8]| overwrite(&path, 0, image);
    // Stopped after each write: stock cryptsetup opens each image, as it is, by the passphrase.
    for image in epochs.iter().flatten() {
        put(image);
        cryptsetup(&["open", "--test-passphrase"], &[&path], b"rescue");
    }
    for (number, epoch) in epochs.iter().enumerate() {
        let expected = if number == 0 { [&old, &new] } else { [&new, &new] };
        let images = Epoch::new(epoch).images();
        assert!(images.len() <= 1024, "{} images are too many to try", images.len());
        let mut found = Vec::new();
        for image in &images {
            put(image);
            let token = stock_token(&path); // which repairs it
            put(image);
            let opened = own_token(&place);
            assert!(opened == token && expected.contains(&&token), "epoch {number}: {token:?}");
            assert_eq!(own_token(&place), opened, "and it stays so");
            found.push(token);
        }
        // Before the first sync it is either; the new one may have been written already.
        assert_eq!((found.contains(&old), found.contains(&new)), (number == 0, true), "epoch {number}");
    }
}

/// Gives the volume, which may have no token, the passphrase `rescue`.
fn add_rescue(place: &Place, dek: &Dek) {
    let key_file = place.backing.with_extension("key");
    fs::write(&key_file, dek.expose()).unwrap();
    let key_file = format!("--volume-key-file={}", key_file.display());
    let quick = ["--pbkdf=argon2id", "--pbkdf-force-iterations=4", "--pbkdf-memory=32", "--pbkdf-parallel=1"];
    let arguments = [&["luksAddKey", "-q", &key_file, "--key-size=512"][..], &quick].concat();
    cryptsetup(&arguments, &[&place.backing], b"rescue");
}
