//! A web server in a host's namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

use control::lab::Family;
use penstock_tests::process::Background;
use penstock_tests::site::{Host, eventually};
use tempfile::TempDir;

/// nginx, serving files on ports 80 and 8080.
pub(crate) struct Nginx {
    // The server goes before its files.
    _server: Background,
    directory: TempDir,
    host: Host,
}

impl Nginx {
    pub(crate) fn start(host: &Host) -> Nginx {
        let directory = tempfile::tempdir().expect("making a directory");
        let path = directory.path().display();
        std::fs::create_dir(directory.path().join("files")).expect("making a directory");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {path}/{name};"))
            .concat();
        let configuration = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/errors;
             events {{ worker_connections 512; }}
             http {{
                 access_log off; {temporary}
                 server {{
                     listen 80; listen [::]:80; listen 8080; listen [::]:8080;
                     root {path}/files;
                 }}
             }}"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, configuration).expect("writing nginx.conf");
        let (file, errors) = (file.display().to_string(), format!("{path}/errors"));
        let server = Background::start(&host.namespace, &["nginx", "-c", &file, "-e", &errors]);
        for port in [80, 8080] {
            let target = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            let listens = || host.namespace.run(|| TcpStream::connect(target).is_ok()).expect("entering a namespace");
            eventually("nginx listens", listens);
        }
        Nginx { _server: server, directory, host: host.clone() }
    }

    /// Serves this under a name.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.file(name), bytes).expect("writing a file");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("files").join(name)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("files")).expect("listing files");
        entries.map(|entry| entry.expect("listing files").file_name().into_string().expect("a name")).collect()
    }

    pub(crate) fn url(&self, family: Family, port: u16, name: &str) -> String {
        format!("http://{}/{name}", SocketAddr::new(self.host.ip(family), port))
    }
}
