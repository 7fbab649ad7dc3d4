// SPDX-License-Identifier: MIT
//! A restorer in Rust: how a checkpoint tool embeds the restore blob. All that it knows of aio-restorer is what
//! `aio-restorer emit --blob restore --format rust` wrote.
//!
//! It makes a ring with pending events, saves it, loses it, and brings it back.

mod blob {
    include!(env!("BLOB_RS"));
}

use blob::{AiorArgs, AiorBlob, AiorRingRecord, AIOR_ABI, AIOR_END_RETURN, AIOR_STEP_DONE, BLOB};
use std::fs::File;
use std::mem::{size_of, size_of_val, transmute};
use std::os::raw::{c_int, c_long, c_void};
use std::os::unix::io::AsRawFd;
use std::ptr;

const EVENTS: usize = 5;
const REAPED: usize = 2;

/// struct iocb of linux/aio_abi.h; little-endian.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16, // 0: IOCB_CMD_PREAD
    priority: i16,
    fd: u32,
    buf: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// struct io_event.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

#[link(name = "aio")]
extern "C" {
    fn io_setup(requests: c_int, ctx: *mut usize) -> c_int;
    fn io_submit(ctx: usize, count: c_long, iocbs: *const *const Iocb) -> c_int;
    fn io_getevents(ctx: usize, least: c_long, most: c_long, events: *mut Event, timeout: *const [c_long; 2]) -> c_int;
    fn io_destroy(ctx: usize) -> c_int;
}

extern "C" {
    fn mmap(at: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn mprotect(at: *mut c_void, len: usize, prot: c_int) -> c_int;
    fn sysconf(name: c_int) -> c_long;
}

const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const PROT_EXEC: c_int = 4;
const MAP_PRIVATE: c_int = 0x2;
const MAP_ANONYMOUS: c_int = 0x20;
const MAP_FIXED_NOREPLACE: c_int = 0x100000;
const SC_PAGESIZE: c_int = 30;

/// New memory, at this address if it is not 0.
fn map(at: usize, len: usize) -> *mut u8 {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | if at != 0 { MAP_FIXED_NOREPLACE } else { 0 };
    let got = unsafe { mmap(at as *mut c_void, len, PROT_READ | PROT_WRITE, flags, -1, 0) };
    assert!(got as isize != -1 && (at == 0 || got as usize == at), "mmap");
    got as *mut u8
}

/// A program's work: reads that have completed, some of them reaped.
fn make_ring() -> usize {
    let zero = File::open("/dev/zero").unwrap();
    let mut byte = 0u8;
    let mut ctx = 0;
    let iocbs: Vec<Iocb> = (0..EVENTS)
        .map(|i| Iocb {
            data: 100 + i as u64,
            fd: zero.as_raw_fd() as u32,
            buf: &mut byte as *mut u8 as u64,
            bytes: 1,
            ..Iocb::default()
        })
        .collect();
    let pointers: Vec<*const Iocb> = iocbs.iter().map(|iocb| iocb as *const Iocb).collect();
    let mut events = [Event::default(); REAPED];
    unsafe {
        assert_eq!(io_setup(8, &mut ctx), 0, "io_setup");
        assert_eq!(io_submit(ctx, EVENTS as c_long, pointers.as_ptr()), EVENTS as c_int, "io_submit");
        let got = io_getevents(ctx, REAPED as c_long, REAPED as c_long, events.as_mut_ptr(), ptr::null());
        assert_eq!(got, REAPED as c_int, "io_getevents");
    }
    ctx
}

/// What a checkpoint and the first half of a restore do: the ring's bytes are saved, the ring is gone, and they lie
/// at its address as plain memory.
fn stage(ctx: usize) -> AiorRingRecord {
    let slots = unsafe { *(ctx as *const u32).add(1) };
    let len = 32 + 32 * slots as usize; // the header, and the slots
    let saved = unsafe { std::slice::from_raw_parts(ctx as *const u8, len) }.to_vec();
    unsafe {
        assert_eq!(io_destroy(ctx), 0, "io_destroy");
        ptr::copy_nonoverlapping(saved.as_ptr(), map(ctx, len), len);
    }
    AiorRingRecord { addr: ctx as u64, len: len as u64, staged: ctx as u64, ..AiorRingRecord::ZERO }
}

/// A copy of the blob that can be executed, and never was executable and writable at once.
fn place() -> &'static AiorBlob {
    let code = map(0, BLOB.len());
    unsafe {
        ptr::copy_nonoverlapping(BLOB.as_ptr(), code, BLOB.len());
        assert_eq!(mprotect(code as *mut c_void, BLOB.len(), PROT_READ | PROT_EXEC), 0, "mprotect");
        &*(code as *const AiorBlob)
    }
}

fn restore(ring: &mut AiorRingRecord) {
    let blob = place();
    let mut scratch = vec![0u128; 4096]; // 16-byte aligned is what it must be
    let mut args = AiorArgs {
        abi: AIOR_ABI,
        size: size_of::<AiorArgs>() as u32,
        end: AIOR_END_RETURN,
        rings: ring as *mut AiorRingRecord as u64,
        ring_count: 1,
        ring_stride: size_of::<AiorRingRecord>() as u32,
        page_size: unsafe { sysconf(SC_PAGESIZE) } as u32,
        scratch: scratch.as_mut_ptr() as u64,
        scratch_len: size_of_val(&scratch[..]) as u64,
        fd: -1,
        ..AiorArgs::ZERO
    };
    let entry = blob as *const AiorBlob as usize + blob.call as usize;
    let call: extern "C" fn(*mut AiorArgs) -> c_int = unsafe { transmute(entry) };

    assert!(args.scratch % 16 == 0 && args.scratch_len >= blob.scratch as u64, "the blob needs more than it is given");
    let failure = call(&mut args);
    assert!(failure == 0 && args.step == AIOR_STEP_DONE, "errno {}, in step {} of ring {}", -failure, args.step, args.ring);
}

fn main() {
    let ctx = make_ring();
    let mut ring = stage(ctx);
    let mut events = [Event::default(); EVENTS];

    restore(&mut ring);
    let got = unsafe { io_getevents(ctx, 1, EVENTS as c_long, events.as_mut_ptr(), &[0, 0]) };
    for event in &events[..got.max(0) as usize] {
        println!("data {} res {}", event.data, event.res);
    }
    assert_eq!(got as usize, EVENTS - REAPED);
}
