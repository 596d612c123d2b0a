//! Calls into libcryptsetup, with what it has to say kept for the error message.

use std::cell::RefCell;
use std::ffi::CStr;
use std::io;
use std::os::raw::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::Once;

use libcryptsetup_rs::consts::vals::{CryptLogLevel, EncryptionFormat};
use libcryptsetup_rs::{CryptDevice, CryptInit, Either, LibcryptErr, set_log_callback};

use super::{LuksError, Place, Placement};

thread_local! {
    /// The last error that libcryptsetup reported on this thread: its return value alone is an errno.
    static LAST_MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The loaded LUKS2 header of `place`, to whose files the paths of `access` lead. A damaged copy is repaired by this.
pub fn load(place: &Place, access: &Place) -> Result<CryptDevice, LuksError> {
    let path = place.header_path();
    let device = match &access.header {
        Placement::Attached => init(&access.backing),
        Placement::Detached(header) => init_detached(header, &access.backing),
    };
    let mut device = device.map_err(failed("open", path))?;
    device
        .context_handle()
        .load::<()>(Some(EncryptionFormat::Luks2), None)
        .map_err(failed("load the LUKS2 header of", path))?;
    Ok(device)
}

/// A device without a header yet.
pub fn init(path: &Path) -> Result<CryptDevice, LibcryptErr> {
    listen();
    CryptInit::init(path)
}

fn init_detached(header: &Path, data: &Path) -> Result<CryptDevice, LibcryptErr> {
    listen();
    CryptInit::init_with_data_device(Either::Right((header, data)))
}

/// Makes an error of libcryptsetup into one that names what was tried on what.
pub fn failed(action: &'static str, path: &Path) -> impl Fn(LibcryptErr) -> LuksError {
    move |error| {
        let message = LAST_MESSAGE.take();
        let detail = match error {
            _ if !message.is_empty() => message,
            LibcryptErr::IOError(e) => e.to_string(),
            other => other.to_string(),
        };
        LuksError::Library { action: action.into(), path: path.to_owned(), detail: shown(&detail, path) }
    }
}

/// What libcryptsetup said, with the volume's path in the place of the one that led this process to the open file.
fn shown(detail: &str, path: &Path) -> String {
    const OPEN_FILES: &str = "/proc/self/fd/";
    let mut parts = detail.split(OPEN_FILES);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        format!("{text}{}{rest}", path.display())
    })
}

/// The errno of a failed call.
pub fn errno(error: &LibcryptErr) -> Option<i32> {
    match error {
        LibcryptErr::IOError(e) => io::Error::raw_os_error(e),
        _ => None,
    }
}

/// Has libcryptsetup's messages, which never hold key bytes, come to [`keep_message`].
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_log_callback::<()>(Some(keep_message), None));
    LAST_MESSAGE.take();
}

unsafe extern "C" fn keep_message(level: c_int, message: *const c_char, _: *mut c_void) {
    if message.is_null() {
        return;
    }
    // SAFETY: libcryptsetup hands over a string that ends in a zero and lives until this returns.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    let text = text.trim();
    log::debug!(target: "libcryptsetup", "{text}");
    if level == CryptLogLevel::Error as c_int {
        LAST_MESSAGE.with(|last| text.clone_into(&mut last.borrow_mut()));
    }
}
