"""The unit by which systemd runs the daemon: as nobody, with one capability, confined as far as it can bear.

`/dev/net/tun` and CAP_NET_ADMIN are all that it has beyond any process; the daemon gives the capability up
itself, once its device is there. systemd-resolved takes it from root alone where names are asked for, so root
tells it once the daemon answers. `tunfwd service unit` prints the unit, for packages.
"""

from typing import Final

UNIT: Final = """\
[Unit]
Description=Reach services of Tox contacts at virtual addresses
After=network.target

[Service]
Type=notify
ExecStart={program} daemon
ExecStartPost=-+/bin/sh -c '[ ! -d /run/systemd/resolve ] || {program} dns install --for resolved'
ExecReload={program} reload
Restart=on-failure
RestartSec=5
WatchdogSec=60
TimeoutStopSec=15

User=tunfwd
Group=tunfwd
StateDirectory=tunfwd
StateDirectoryMode=0700
RuntimeDirectory=tunfwd
ConfigurationDirectory=tunfwd
Environment=TUNFWD_STATE_DIR=/var/lib/tunfwd TUNFWD_SOCKET=/run/tunfwd/control.sock
Environment=TUNFWD_CONFIG=/etc/tunfwd/config.toml TUNFWD_GROUP=tunfwd

AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
LimitNOFILE=65536
LockPersonality=yes
NoNewPrivileges=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallFilter=~@resources @privileged
SystemCallFilter=@chown capset setrlimit prlimit64
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""

CONFIG: Final = """\
# The configuration of the tunfwd service; `tunfwd reload` has it read again.
# Every key, with its default, is in docs/configuration.md, in the Debian package in /usr/share/doc/tunfwd.
"""
