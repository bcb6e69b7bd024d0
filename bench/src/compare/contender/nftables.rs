//! libnftables, opened while running: what `nft` itself is made of, without the start of a process for each change.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use anyhow::{Result, bail};

/// A library that is open, with a context of the network namespace that the thread was in.
pub struct Library {
    handle: *mut c_void,
    context: *mut c_void,
    run: unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int,
    free: unsafe extern "C" fn(*mut c_void),
}

impl Library {
    /// Opens it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn open() -> Result<Library> {
        // SAFETY: the name is a C string; the library's constructors have no requirements.
        let handle = unsafe { libc::dlopen(c"libnftables.so.1".as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            bail!("libnftables.so.1 is not installed");
        }
        let symbol = |name: &CStr| -> Result<*mut c_void> {
            // SAFETY: the handle is of an open library, the name a C string.
            let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if address.is_null() { bail!("libnftables has no {}", name.to_string_lossy()) } else { Ok(address) }
        };
        let [new, free, run] = [symbol(c"nft_ctx_new")?, symbol(c"nft_ctx_free")?, symbol(c"nft_run_cmd_from_buffer")?];
        // SAFETY: these are the functions' types (libnftables(3)); a symbol that was found is a function's address.
        let (new, free, run) = unsafe {
            (
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32) -> *mut c_void>(new),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(free),
                std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, *const c_char) -> c_int>(run),
            )
        };
        // SAFETY: NFT_CTX_DEFAULT is 0.
        let context = unsafe { new(0) };
        if context.is_null() {
            bail!("libnftables gives no context");
        }
        Ok(Library { handle, context, run, free })
    }

    /// Runs a command; it is in force when this returns.
    ///
    /// # Errors
    /// When the kernel refuses it; the library says why on stderr.
    pub fn run(&self, command: &str) -> Result<()> {
        let text = CString::new(command)?;
        // SAFETY: the context lives until `self` is dropped, the text until the call returns.
        let result = unsafe { (self.run)(self.context, text.as_ptr()) };
        if result == 0 { Ok(()) } else { bail!("libnftables refused '{command}'") }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the context is ours and not used again; the library stays open until after it is freed.
        unsafe {
            (self.free)(self.context);
            libc::dlclose(self.handle);
        }
    }
}
