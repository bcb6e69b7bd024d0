//! The large cluster: `cargo bench -p penstock-bench --bench scale -- [PODS [POLICIES [NAMESPACES [CHANGES]]]]`; the large gateway
//! beside libnftables: `… -- gateway [RULES [ROUNDS]]` (root).

use std::fmt::Display;

use penstock_bench::scale::{Config, gateway, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let numbers: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    if std::env::args().any(|argument| argument == "gateway") {
        let mut config = gateway::Config::default();
        for (wanted, &number) in [&mut config.rules, &mut config.rounds].into_iter().zip(&numbers) {
            *wanted = number;
        }
        return tell(gateway::run(&config));
    }
    let mut config = Config::default();
    let shape = &mut config.shape;
    let wanted = [&mut shape.pods, &mut shape.policies, &mut shape.namespaces, &mut config.changes];
    for (wanted, &number) in wanted.into_iter().zip(&numbers) {
        *wanted = number;
    }
    config.shape.dual_stack = !std::env::args().any(|argument| argument == "--ipv4");
    tell(run(&config));
}

fn tell(result: anyhow::Result<impl Display>) {
    match result {
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
}
