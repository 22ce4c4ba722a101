//! Groups with other settings than the defaults: results are the same, and ranks that were told different things hear it.

use std::time::Duration;

use rmpi::tuning::Overrides;
use rmpi::{Call, DataType, Group, GroupOptions, Invocation};

use crate::collectives;

/// Short slots, of an odd length too; work that is always or never divided; everything past the caches; no shared memory.
const CHOICES: [&[(&str, &str)]; 5] = [
    &[("chunk_bytes", "4K"), ("divide_bytes", "0"), ("leader_bytes", "0"), ("gather_bytes", "0"), ("tree_bytes", "0")],
    &[("stream_bytes", "0"), ("divide_bytes", "0")],
    &[("chunk_bytes", "4160"), ("single_copy", "always"), ("spins", "0")],
    &[
        ("divide_bytes", "4M"),
        ("leader_bytes", "4M"),
        ("gather_bytes", "4M"),
        ("tree_bytes", "4M"),
        ("inline_bytes", "4M"),
    ],
    &[("shm", "0"), ("inline_bytes", "0"), ("spins", "7")],
];

fn world(name: String, choices: &[(&str, &str)]) -> rmpi::Result<Group> {
    let overrides = Overrides::new(choices.iter().copied())?;
    Group::world(GroupOptions { name, timeout: Duration::from_secs(60), overrides })
}

pub fn results_are_the_same(_: &Group) {
    for (index, choices) in CHOICES.iter().enumerate() {
        let group = world(format!("tuned {index}"), choices).unwrap();
        for (name, value) in *choices {
            let found = group.tuning().settings().find(|(setting, ..)| setting.name() == *name).unwrap();
            assert_eq!((found.1.as_str(), found.2.to_string().as_str()), (*value, "options"), "{name}");
        }
        collectives::reductions_of(&group, &[DataType::BFloat16]);
        collectives::movements(&group);
        while !group.shutdown(Duration::from_secs(1)).unwrap() {}
    }
}

pub fn a_difference_is_an_error_everywhere(group: &Group) {
    let (rank, size) = (group.rank(), group.size());
    if size == 1 {
        return;
    }
    let choices =
        [("chunk_bytes", "4K"), ("divide_bytes", "0"), ("shm", "0"), ("single_copy", "never"), ("tree_bytes", "1")];
    for (index, (setting, value)) in choices.into_iter().enumerate() {
        let odd = index % size;
        let own: &[_] = if rank == odd { &[(setting, value)] } else { &[] };
        let error = world(format!("different {setting}"), own).map(drop).unwrap_err();
        let text = error.to_string();
        let variable = format!("{setting} (TORCH_RMPI_{})", setting.to_uppercase());
        for part in [variable, format!("{value} on rank {odd}"), "(the default) on rank".to_owned()] {
            assert!(text.contains(&part), "{part}: {text}");
        }
        assert_eq!(text.matches("TORCH_RMPI").count(), 1, "{text}");
        // Others go on.
        group.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
    }
    // What is a rank's own.
    let own: &[_] = if rank == 0 { &[("spins", "3"), ("inline_bytes", "0"), ("stream_bytes", "0")] } else { &[] };
    let other = world("of different patience".to_owned(), own).unwrap();
    other.run(&Invocation::new(Call::Barrier, &[], &[])).unwrap();
    while !other.shutdown(Duration::from_secs(1)).unwrap() {}
}
