//! One scenario a fixed number of times, for a machine that counts instructions: `instructions
//! NAME` prints how many units of what and how many bytes were measured, `instructions` the names.
//!
//! `.ci/instructions` runs it under callgrind, which counts what is below `measured` only; so the
//! guest's part, the making of an engine and its warming up are left out. One thread, no clock, no
//! randomness: the count is that of the code.

use sim::load::scenario::{self, NAMES, Scenario, Work};

/// Steps before anything is counted: pages are touched, rings have wrapped.
const WARM_STEPS: u32 = 20;
/// Steps that are counted.
const STEPS: u32 = 20;

/// One counted step. Its name is what callgrind toggles at.
#[inline(never)]
fn measured(scenario: &mut dyn Scenario) -> Work {
    scenario.run()
}

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        NAMES.iter().for_each(|name| println!("{name}"));
        return;
    };
    scenario::with(&name, |scenario| {
        for _ in 0..WARM_STEPS {
            scenario.prepare();
            scenario.run();
        }
        let (mut units, mut bytes) = (0, 0);
        for _ in 0..STEPS {
            scenario.prepare();
            let work = measured(scenario);
            units += work.units;
            bytes += work.bytes;
        }
        // The last step is looked at as well.
        scenario.prepare();
        let bytes = if scenario.is_bulk() { bytes } else { 0 };
        println!("{units} {bytes} {}", scenario.unit());
    });
}
