//! Ranks that call different things: everybody fails, whichever node it is on, and nobody waits.

use std::time::Duration;

use rmpi::{Call, DataType, Group, GroupOptions, Invocation, ReduceOp, Reduction, View};

pub fn is_an_error_everywhere(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    if size == 1 {
        return;
    }
    for odd in 0..size {
        for kind in 0..4 {
            let name = format!("disagreement {odd} {kind}");
            // Long enough to tell a hang from an error.
            let other =
                Group::world(GroupOptions { name, timeout: Duration::from_secs(40), ..GroupOptions::default() })
                    .unwrap();
            // SAFETY: memory that outlives the group's operations.
            let memory = unsafe { View::new(vec![0_u8; 4096].leak().as_mut_ptr(), 4096) };
            let sum = Reduction::new(DataType::Int32, ReduceOp::Sum, 1.0).unwrap();
            let len = if rank == odd && kind == 1 { 8 } else { 4 };
            let view = memory.slice(0..len);
            let block = |index: usize| memory.slice(512 + index * 16..512 + index * 16 + len);
            let blocks: Vec<_> = (0..size).map(block).collect();
            let result = match kind {
                0 if rank == odd => other.run(&Invocation::new(Call::Barrier, &[], &[])),
                0 | 1 => other.run(&Invocation::new(Call::AllReduce(sum), &[view], &[view])),
                2 => {
                    let root = usize::from(rank == odd);
                    other.run(&Invocation::new(Call::Broadcast { root }, &[], &[view]))
                }
                _ => {
                    // One rank expects more of the next one than that sends.
                    let mut outputs: Vec<_> =
                        (0..size).map(|from| memory.slice(1024 + 16 * from..1028 + 16 * from)).collect();
                    if rank == odd {
                        outputs[(odd + 1) % size] = memory.slice(2048..2056);
                    }
                    other.run(&Invocation::new(Call::AllToAll, &blocks, &outputs))
                }
            };
            let text = result.unwrap_err().to_string();
            assert!(!text.contains("Timed out"), "{text}");
            if kind == 0 {
                assert!(text.contains("all_reduce") && text.contains("barrier"), "{text}");
            }
            // Nobody leaves before all have heard of it.
            group.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
            while !other.shutdown(Duration::from_secs(1)).unwrap() {}
        }
    }
}
