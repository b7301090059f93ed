"""The `[agent.kata]` and `[agent.kata.mem_agent]` tables: what the guest's agent is told."""

from __future__ import annotations

from kata.config.setting import Section, later, setting

LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "critical")


class AgentSettings(Section, table="agent.kata", annotated_as="config.agent."):
    """How the agent in the guest behaves, and how long the host waits for it."""

    enable_debug: bool = setting(
        default=False,
        help="Log the agent's debug messages; wins over log_level.",
    )
    log_level: str = setting(
        default="info",
        choices=LOG_LEVELS,
        help="How much the agent logs; passed to the guest as agent.log.",
    )
    kernel_modules: tuple[str, ...] = setting(
        default=(),
        annotation=True,
        separator=";",
        help='Modules that the guest loads before the first container, each "name parameters".',
    )
    dial_timeout: int = setting(
        default=45,
        unit="s",
        minimum=1,
        help="How long one connection attempt to the agent may take.",
    )
    reconnect_timeout_ms: int = setting(
        default=45000,
        unit="ms",
        minimum=1,
        help=(
            "How long the agent may take to appear. Upstream waits 3000 ms; a cold boot takes "
            "about 10 s where QEMU has to emulate the processor."
        ),
    )
    create_container_timeout: int = setting(
        default=60,
        unit="s",
        minimum=1,
        help=(
            "How long creating a container may take. May stand in [runtime] instead, as in "
            "upstream's Go runtime, whose default this is (the Rust one waits 30 s)."
        ),
    )
    enable_tracing: bool = later(
        default=False, annotation=True, help="Send the agent's trace spans to the host."
    )
    debug_console_enabled: bool = setting(
        default=False,
        help=(
            "Let root on the host run programs in the guest itself, outside of its containers: "
            "`kata-ctl exec`."
        ),
    )
    dial_timeout_ms: int = later(
        default=10, unit="ms", help="Length of one connection attempt; use dial_timeout."
    )
    cdh_api_timeout: int = later(
        default=50, unit="s", annotation=True, help="Limit for calls to the confidential data hub."
    )
    cdh_api_timeout_ms: int = later(
        default=50000, unit="ms", annotation=True, help="The same limit, in milliseconds."
    )
    launch_process_timeout: int = later(
        default=6, unit="s", help="How long the guest's helper components may take to start."
    )
    visible_cdi_devices: bool = later(
        default=False, help="Resolve CDI device names inside the guest."
    )
    container_pipe_size: int = later(
        default=0, unit="bytes", annotation=True, help="Size of the stdio pipes; 0 is the kernel's."
    )
    server_port: int = later(default=1024, help="vsock port that the agent listens on.")
    log_port: int = later(default=1025, help="vsock port that the agent's log is sent to.")
    passfd_listener_port: int = later(default=1027, help="vsock port for handed-over stdio.")
    health_check_request_timeout_ms: int = later(
        default=90000, unit="ms", help="Limit for one health check of the agent."
    )
    policy: str = later(
        default="", annotation=True, help="Rego document that decides which requests are served."
    )


class MemoryAgentSettings(Section, table="agent.kata.mem_agent"):
    """The daemon in the guest that gives cold memory back to the host."""

    mem_agent_enable: bool = later(default=False, help="Run the memory daemon.")
    memcg_disable: bool = later(default=False, help="Do not reclaim cold pages.")
    memcg_swap: bool = later(default=False, help="Reclaim anonymous pages into swap too.")
    memcg_swappiness_max: int = later(default=50, help="Highest swappiness that is used.")
    memcg_period_secs: int = later(default=600, unit="s", help="Time between two reclaims.")
    memcg_period_psi_percent_limit: int = later(
        default=1, unit="%", help="Memory pressure over a period above which none is reclaimed."
    )
    memcg_eviction_psi_percent_limit: int = later(
        default=1, unit="%", help="Memory pressure at which a running reclaim stops."
    )
    memcg_eviction_run_aging_count_min: int = later(
        default=3, help="Ageing passes that precede a reclaim."
    )
    compact_disable: bool = later(default=False, help="Do not compact memory.")
    compact_period_secs: int = later(default=600, unit="s", help="Time between two compactions.")
    compact_period_psi_percent_limit: int = later(
        default=1, unit="%", help="Memory pressure over a period above which none is compacted."
    )
    compact_psi_percent_limit: int = later(
        default=5, unit="%", help="Memory pressure at which a running compaction stops."
    )
    compact_sec_max: int = later(default=300, unit="s", help="Longest run of one compaction.")
    compact_order: int = later(default=9, help="Page order that compaction aims for.")
    compact_threshold: int = later(
        default=1024, help="Free pages of that order to gain before compaction starts."
    )
    compact_force_times: str = later(
        default="never", help="Skipped periods after which compaction runs regardless."
    )
