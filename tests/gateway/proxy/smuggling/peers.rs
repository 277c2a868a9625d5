//! nginx and HAProxy in front of the same dataserver, to see what others make of a case.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Process, pause, tools};

/// Another proxy as a process.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) addr: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Peer {
    pub(super) fn nginx(dataserver: SocketAddr) -> Self {
        let program = &tools::PEERS.as_ref().unwrap()[0];
        Self::start("nginx", |listen, dir| {
            let config = format!(
                "daemon off; master_process off; error_log stderr; pid {dir}/pid;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{\n\
                   access_log off; client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s;\n\
                   client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
                   uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
                   server {{\n\
                     listen {listen};\n\
                     location / {{\n\
                       proxy_pass http://{dataserver}; proxy_http_version 1.1; proxy_request_buffering off;\n\
                       proxy_set_header Host $http_host; proxy_read_timeout 2s; proxy_send_timeout 2s;\n\
                     }}\n\
                   }}\n\
                 }}\n"
            );
            let file = format!("{dir}/nginx.conf");
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new(program);
            command.args(["-p", dir, "-c", &file]);
            command
        })
    }

    pub(super) fn haproxy(dataserver: SocketAddr) -> Self {
        let program = &tools::PEERS.as_ref().unwrap()[1];
        Self::start("haproxy", |listen, dir| {
            let config = format!(
                "defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 2s\n  \
                   timeout http-request 1s\n  timeout http-keep-alive 1s\n\
                 listen gateway\n  bind {listen}\n  server dataserver {dataserver}\n"
            );
            let file = format!("{dir}/haproxy.cfg");
            std::fs::write(&file, config).unwrap();
            let mut command = Command::new(program);
            command.args(["-db", "-f", &file]);
            command
        })
    }

    /// Neither can be told to take any port: one that was free a moment ago is tried, and another where it no longer is.
    fn start(name: &'static str, command: impl Fn(SocketAddr, &str) -> Command) -> Self {
        for _ in 0..10 {
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let mut process = Process::start(&mut command(addr, dir.path().to_str().unwrap()));
            for _ in 0..500 {
                if TcpStream::connect(addr).is_ok() && process.is_running() {
                    return Self { name, addr, _process: process, _dir: dir };
                }
                if !process.is_running() {
                    eprintln!("{name}: {}", process.output());
                    break;
                }
                pause(Duration::from_millis(10));
            }
        }
        panic!("{name} does not start");
    }
}
