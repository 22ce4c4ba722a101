//! What loom knows about plain memory: a cell for every grain of it that a model has named. Views report their accesses
//! here, so that loom finds those that no atomic orders.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use loom::cell::UnsafeCell;

/// Bytes that count as one: whoever touches a part of them touches them all.
pub(crate) const GRAIN: usize = 32;

thread_local! {
    /// By address, in grains. All threads of a model are one thread of the system.
    static CELLS: RefCell<BTreeMap<usize, Rc<UnsafeCell<()>>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Memory whose accesses are checked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Tracked {
    grains: Range<usize>,
}

impl Tracked {
    /// Has the memory at these addresses checked. For the main thread of a model, before it has others: making a cell
    /// counts as writing to it.
    pub fn new(addresses: Range<usize>) -> Self {
        assert!(addresses.start.is_multiple_of(GRAIN) && addresses.end.is_multiple_of(GRAIN), "{addresses:?}");
        let grains = addresses.start / GRAIN..addresses.end / GRAIN;
        CELLS.with_borrow_mut(|cells| cells.extend(grains.clone().map(|grain| (grain, Rc::new(UnsafeCell::new(()))))));
        Tracked { grains }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        CELLS.with_borrow_mut(|cells| cells.retain(|grain, _| !self.grains.contains(grain)));
    }
}

/// Reports that `len` bytes at `address` are read.
pub(super) fn read(address: *const u8, len: usize) {
    touched(address, len).iter().for_each(|cell| cell.with(|_| ()));
}

/// Reports that `len` bytes at `address` are written.
pub(super) fn write(address: *const u8, len: usize) {
    touched(address, len).iter().for_each(|cell| cell.with_mut(|_| ()));
}

fn touched(address: *const u8, len: usize) -> Vec<Rc<UnsafeCell<()>>> {
    let start = address.addr();
    CELLS.with_borrow(|cells| {
        cells.range(start / GRAIN..(start + len).div_ceil(GRAIN)).map(|(_, cell)| cell.clone()).collect()
    })
}
