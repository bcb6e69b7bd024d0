//! The large cluster: `cargo bench -p penstock-bench --bench scale -- [PODS [POLICIES [NAMESPACES [CHANGES]]]]`.

use penstock_bench::scale::{Config, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let numbers: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let mut config = Config::default();
    let shape = &mut config.shape;
    let wanted = [&mut shape.pods, &mut shape.policies, &mut shape.namespaces, &mut config.changes];
    for (wanted, &number) in wanted.into_iter().zip(&numbers) {
        *wanted = number;
    }
    config.shape.dual_stack = !std::env::args().any(|argument| argument == "--ipv4");
    match run(&config) {
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
}
