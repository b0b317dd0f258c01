"""What the four dashboards show: one row of this table for each panel. Pure data.

In a query `@` stands for the variables of the dashboard: cluster, namespace, service and pod. A rate is
taken over Grafana's own interval, so that zooming out loses nothing.
"""

from __future__ import annotations

from typing import Final, NamedTuple

RATE: Final = "$__rate_interval"


class Query(NamedTuple):
    """PromQL, and how its series are called."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel. `kind` and `unit` are Grafana's words; `wide` of 24 columns."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    wide: int = 8


class Board(NamedTuple):
    """One dashboard: rows with a title, each of panels."""

    name: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def _rate(metric: str, by: str, labels: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}@}}[{RATE}]))"


def _quantile(share: str, metric: str, by: str = "", labels: str = "") -> str:
    group = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({group}) (rate({metric}_bucket{{{labels}@}}[{RATE}])))"


def _quantiles(metric: str) -> tuple[Query, ...]:
    return tuple(Query(_quantile(share, metric), f"p{share[2:]}") for share in ("0.5", "0.9", "0.99"))


_PROCESS: Final = "{{pod}} {{instance}}"
_SLOW: Final = 'reason="slow_consumer", '
_FAILED: Final = 'outcome="failed", '
_CONNECTIONS: Final = "carillon_gateway_connections{@}"
_BY_GATEWAY: Final = f"sum by (pod, instance) ({_CONNECTIONS})"
_ACCEPTED: Final = 'carillon_gateway_live_messages_total{outcome="accepted", @}'

FLEET: Final = Board(
    "fleet",
    "Carillon / Fleet",
    "Who is connected, where, and how they come and go.",
    (
        (
            "Now",
            (
                Panel(
                    "Connections",
                    "Open on all gateways.",
                    "short",
                    (Query(f"sum({_CONNECTIONS})"),),
                    "stat",
                    6,
                ),
                Panel(
                    "Gateways ready",
                    "Those that may get traffic.",
                    "short",
                    (Query('sum(carillon_ready{component="gateway", @})'),),
                    "stat",
                    6,
                ),
                Panel(
                    "Imbalance",
                    "The fullest gateway against the mean. Above 1.2 clients are moved.",
                    "none",
                    (Query(f"max({_BY_GATEWAY}) / avg({_BY_GATEWAY})"),),
                    "stat",
                    6,
                ),
                Panel(
                    "Fullest gateway",
                    "Connections against CARILLON_MAX_CONNECTIONS.",
                    "percentunit",
                    (
                        Query(
                            f"max(sum by (pod, instance) ({_CONNECTIONS})"
                            " / sum by (pod, instance) (carillon_gateway_max_connections{@}))"
                        ),
                    ),
                    "stat",
                    6,
                ),
            ),
        ),
        (
            "Connections",
            (
                Panel(
                    "By transport",
                    "What they are carried by.",
                    "short",
                    (Query(f"sum by (transport) ({_CONNECTIONS})", "{{transport}}"),),
                ),
                Panel(
                    "By gateway",
                    "After a scale-out the lines meet within minutes.",
                    "short",
                    (Query(f"sum by (pod, instance) ({_CONNECTIONS})", _PROCESS),),
                ),
                Panel(
                    "Opened per second",
                    "A peak right after a drop is everybody coming back.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_gateway_connections_opened_total", "transport"), "{{transport}}"
                        ),
                    ),
                ),
                Panel(
                    "Goodbyes per second",
                    "Clients that were told to come back: drains, and moves to emptier gateways.",
                    "ops",
                    (Query(_rate("carillon_gateway_goodbyes_total", "reason"), "{{reason}}"),),
                ),
                Panel(
                    "WebSockets that ended, by reason",
                    "`client`: closed by the client. `no_pong`: it vanished.",
                    "ops",
                    (Query(_rate("carillon_gateway_websocket_closed_total", "reason"), "{{reason}}"),),
                ),
                Panel(
                    "Event streams that ended, by reason",
                    "`complete`: the order is over.",
                    "ops",
                    (Query(_rate("carillon_gateway_sse_closed_total", "reason"), "{{reason}}"),),
                ),
            ),
        ),
        (
            "At the door",
            (
                Panel(
                    "WebSocket handshakes by answer",
                    "Everything but `ok` was refused.",
                    "ops",
                    (Query(_rate("carillon_gateway_handshakes_total", "code"), "{{code}}"),),
                ),
                Panel(
                    "Event streams by answer",
                    "Everything but `ok` was refused, or told to come back.",
                    "ops",
                    (Query(_rate("carillon_gateway_sse_opened_total", "code"), "{{code}}"),),
                ),
                Panel(
                    "Refused by a limit",
                    "Which bound of admission was reached.",
                    "ops",
                    (Query(_rate("carillon_gateway_admission_refused_total", "limit"), "{{limit}}"),),
                ),
                Panel(
                    "Tokens rejected",
                    "By code.",
                    "ops",
                    (Query(_rate("carillon_gateway_auth_rejected_total", "code"), "{{code}}"),),
                ),
                Panel(
                    "Moved to other gateways",
                    "Connections shed by gateways that held too many.",
                    "ops",
                    (Query(_rate("carillon_gateway_shed_total", "pod, instance"), _PROCESS),),
                ),
                Panel(
                    "Gateways that each has heard of",
                    "The others; all lines are equal when everybody hears everybody.",
                    "short",
                    (Query("carillon_gateway_fleet{@}", _PROCESS),),
                ),
            ),
        ),
    ),
)

DELIVERY: Final = Board(
    "delivery",
    "Carillon / Delivery",
    "How fast messages reach the sockets, and how clients that come back go on.",
    (
        (
            "Lag",
            (
                Panel(
                    "From stored to written",
                    "One message of each flush: from its time in JetStream to the sockets.",
                    "s",
                    (
                        Query(
                            "sum by (le) (increase(carillon_gateway_delivery_lag_seconds_bucket{@}"
                            f"[{RATE}]))",
                            "{{le}}",
                        ),
                    ),
                    "heatmap",
                    12,
                ),
                Panel(
                    "Quantiles of the lag",
                    "Across clocks of two machines: a constant part may be their difference.",
                    "s",
                    _quantiles("carillon_gateway_delivery_lag_seconds"),
                    wide=6,
                ),
                Panel(
                    "p99 of the lag, by kind of channel",
                    "Orders and rooms have streams of their own, with leaders of their own.",
                    "s",
                    (Query(_quantile("0.99", "carillon_gateway_delivery_lag_seconds", "kind"), "{{kind}}"),),
                    wide=6,
                ),
            ),
        ),
        (
            "Fan-out",
            (
                Panel(
                    "Live messages by outcome",
                    "`held`: there was a hole before it, filled from the log.",
                    "ops",
                    (Query(_rate("carillon_gateway_live_messages_total", "outcome"), "{{outcome}}"),),
                ),
                Panel(
                    "Writes to connections",
                    "One may carry several events.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_gateway_deliveries_total", "pod, instance"),
                            _PROCESS,
                        ),
                    ),
                ),
                Panel(
                    "Writes for each live message",
                    "The fan-out.",
                    "short",
                    (
                        Query(
                            f"sum(rate(carillon_gateway_deliveries_total{{@}}[{RATE}]))"
                            f" / sum(rate({_ACCEPTED}[{RATE}]))"
                        ),
                    ),
                ),
                Panel(
                    "Channels",
                    "With listeners on each gateway.",
                    "short",
                    (Query("carillon_gateway_channels{@}", _PROCESS),),
                ),
                Panel(
                    "Cut because they read too slowly",
                    "They resume where they were.",
                    "ops",
                    (
                        Query(
                            _rate(
                                "carillon_gateway_websocket_closed_total",
                                "pod, instance",
                                _SLOW,
                            ),
                            "WebSocket {{pod}} {{instance}}",
                        ),
                        Query(
                            _rate(
                                "carillon_gateway_sse_closed_total",
                                "pod, instance",
                                _SLOW,
                            ),
                            "event stream {{pod}} {{instance}}",
                        ),
                    ),
                ),
                Panel(
                    "Waiting to be read",
                    "In the outboxes of each gateway: what its slow clients have not taken yet.",
                    "bytes",
                    (Query("carillon_gateway_outbox_bytes{@}", _PROCESS),),
                ),
                Panel(
                    "Messages of clients",
                    "Frames received on WebSockets.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_gateway_websocket_messages_total", "pod, instance"),
                            _PROCESS,
                        ),
                    ),
                ),
            ),
        ),
        (
            "Nothing missed",
            (
                Panel(
                    "Positions presented, by outcome",
                    "`ring` and `log` went on without a gap; the others were told to begin anew.",
                    "ops",
                    (Query(_rate("carillon_gateway_resumes_total", "outcome"), "{{outcome}}"),),
                ),
                Panel(
                    "Resumed without a gap",
                    "Of all positions presented.",
                    "percentunit",
                    (
                        Query(
                            f'sum(rate(carillon_gateway_resumes_total{{outcome=~"ring|log", @}}[{RATE}]))'
                            f" / sum(rate(carillon_gateway_resumes_total{{@}}[{RATE}]))"
                        ),
                    ),
                ),
                Panel(
                    "Holes filled, channels audited",
                    "A hole is a live message that did not arrive; audits find those with no successor.",
                    "ops",
                    (
                        Query(f"sum(rate(carillon_gateway_gaps_filled_total{{@}}[{RATE}]))", "filled"),
                        Query(f"sum(rate(carillon_gateway_audited_channels_total{{@}}[{RATE}]))", "audited"),
                        Query(
                            f"sum(rate(carillon_gateway_unreadable_messages_total{{@}}[{RATE}]))",
                            "unreadable",
                        ),
                    ),
                ),
            ),
        ),
    ),
)

SERVICES: Final = Board(
    "services",
    "Carillon / Services",
    "Requests, errors and durations of each service, and the streams they keep.",
    (
        (
            "Calls, as their callers see them",
            (
                Panel(
                    "Calls per second",
                    "By service.",
                    "ops",
                    (Query(_rate("carillon_rpc_calls_total", "component"), "{{component}}"),),
                ),
                Panel(
                    "Failed",
                    "The share that ended with a 5xx code; refusals are the callers' own.",
                    "percentunit",
                    (
                        Query(
                            f"{_rate('carillon_rpc_calls_total', 'service', _FAILED)}"
                            f" / {_rate('carillon_rpc_calls_total', 'service')}",
                            "{{component}}",
                        ),
                    ),
                ),
                Panel(
                    "p99 of a call",
                    "Including repeats.",
                    "s",
                    (Query(_quantile("0.99", "carillon_rpc_call_seconds", "component"), "{{component}}"),),
                ),
                Panel(
                    "Not ok, by code",
                    "The codes of the protocol's catalogue; and how often nobody served a component.",
                    "ops",
                    (
                        Query(_rate("carillon_rpc_calls_not_ok_total", "code"), "{{code}}"),
                        Query(_rate("carillon_rpc_nobody_listens_total", "component"), "no {{component}}"),
                    ),
                ),
                Panel(
                    "HTTP requests by answer",
                    "The API of the gateways.",
                    "ops",
                    (Query(_rate("carillon_gateway_http_requests_total", "code"), "{{code}}"),),
                ),
                Panel(
                    "p99 of an HTTP request",
                    "By route.",
                    "s",
                    (Query(_quantile("0.99", "carillon_gateway_http_seconds", "route"), "{{route}}"),),
                ),
                Panel(
                    "What clients asked for on connections",
                    "Frames that take a while: joins, messages, history.",
                    "ops",
                    (Query(_rate("carillon_gateway_works_total", "kind, outcome"), "{{kind}} {{outcome}}"),),
                ),
                Panel(
                    "In vain, by code",
                    "Frames that were refused or failed.",
                    "ops",
                    (Query(_rate("carillon_gateway_works_not_ok_total", "code"), "{{code}}"),),
                ),
            ),
        ),
        (
            "Services, from inside",
            (
                Panel(
                    "p99 by method",
                    "Time in the service.",
                    "s",
                    (
                        Query(
                            _quantile("0.99", "carillon_rpc_served_seconds", "component, method"),
                            "{{component}} {{method}}",
                        ),
                    ),
                ),
                Panel(
                    "Answers by code",
                    "What the replicas said.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_rpc_answers_total", "component, code"), "{{component}} {{code}}"
                        ),
                    ),
                ),
                Panel(
                    "In flight, and refused as too many",
                    "Requests being served; CARILLON_CONCURRENCY is the bound of each replica.",
                    "short",
                    (
                        Query("sum by (component) (carillon_rpc_in_flight{@})", "{{component}}"),
                        Query(
                            _rate("carillon_rpc_overloaded_total", "component"),
                            "{{component}} refused per second",
                        ),
                    ),
                ),
                Panel(
                    "Requests that travel together",
                    "Those of one turn of a gateway's loop are one message; `alone`: sent again one by one.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_rpc_batched_calls_total", "component"), "{{component}} requests"
                        ),
                        Query(_rate("carillon_rpc_batches_total", "component"), "{{component}} messages"),
                        Query(
                            _rate("carillon_rpc_calls_sent_alone_total", "component"), "{{component}} alone"
                        ),
                    ),
                ),
                Panel(
                    "Rooms whose policy changed",
                    "Notices that gateways heard or found themselves, and clients that were sent away.",
                    "ops",
                    (
                        Query(_rate("carillon_gateway_policy_notices_total", "how"), "notices {{how}}"),
                        Query(_rate("carillon_gateway_expelled_total", "pod"), "{{pod}} sent away"),
                    ),
                ),
                Panel(
                    "Orders by new status",
                    "Changes stored.",
                    "ops",
                    (Query(_rate("carillon_orders_changes_total", "status"), "{{status}}"),),
                ),
                Panel(
                    "Chat",
                    "Messages stored, repeated, refused.",
                    "ops",
                    (
                        Query(_rate("carillon_chat_messages_total", "outcome"), "{{outcome}}"),
                        Query(f"sum(rate(carillon_chat_rate_limited_total{{@}}[{RATE}]))", "rate limited"),
                        Query(f"sum(rate(carillon_chat_not_admitted_total{{@}}[{RATE}]))", "not admitted"),
                    ),
                ),
                Panel(
                    "Policies of rooms in force",
                    "0: some may be missing, and every room is closed until an operator has looked.",
                    "short",
                    (Query("min(carillon_register_vouched{@})", "in force"),),
                ),
                Panel(
                    "Contended writes",
                    "Writes that came second and were decided again.",
                    "ops",
                    (Query(f"sum(rate(carillon_orders_races_lost_total{{@}}[{RATE}]))", "orders"),),
                ),
            ),
        ),
        (
            "Streams",
            (
                Panel(
                    "p99 of an append",
                    "Until JetStream acknowledged it: replicated, and on disk where that is configured.",
                    "s",
                    (Query(_quantile("0.99", "carillon_log_append_seconds", "stream"), "{{stream}}"),),
                ),
                Panel(
                    "Appends by outcome",
                    "`duplicate`: an earlier attempt had stored it.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_log_appends_total", "stream, outcome"),
                            "{{stream}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Repeats and nudges",
                    "Attempts after the first, and messages that may not have been republished.",
                    "ops",
                    (
                        Query(_rate("carillon_log_append_retries_total", "stream"), "{{stream}} repeats"),
                        Query(_rate("carillon_log_nudges_total", "stream"), "{{stream}} nudges"),
                    ),
                ),
                Panel(
                    "How full",
                    "A full stream refuses new messages and loses none.",
                    "percentunit",
                    (
                        Query(
                            "max by (stream) (carillon_log_stream_bytes{@}) / max by (stream)"
                            " (carillon_log_stream_max_bytes{@})",
                            "{{stream}}",
                        ),
                    ),
                ),
                Panel(
                    "Streams that take no writes, or are missing",
                    "1: full, on a full disk, or not there. The log of the process says which.",
                    "short",
                    (
                        Query("max by (stream) (carillon_log_stream_full{@})", "{{stream}} full"),
                        Query("1 - min by (stream) (carillon_log_stream_there{@})", "{{stream}} missing"),
                    ),
                ),
                Panel(
                    "Reads by kind",
                    "`batch` and `multi_last` come from any replica, `leader` from the leader.",
                    "ops",
                    (Query(_rate("carillon_log_reads_total", "stream, kind"), "{{stream}} {{kind}}"),),
                ),
                Panel(
                    "p99 of a read, and those that wait",
                    "A resume storm shows here first.",
                    "s",
                    (
                        Query(_quantile("0.99", "carillon_log_read_seconds", "kind"), "{{kind}}"),
                        Query("sum by (stream) (carillon_log_reads_queued{@})", "{{stream}} waiting (count)"),
                    ),
                ),
            ),
        ),
        (
            "Presence",
            (
                Panel(
                    "Users in rosters",
                    "As gateways write them. `lingering`: connections lost a moment ago, or sent elsewhere.",
                    "short",
                    (Query("sum by (state) (carillon_gateway_presence_members{@})", "{{state}}"),),
                ),
                Panel(
                    "Scopes",
                    "Followed by gateways for their clients, and known to each replica.",
                    "short",
                    (
                        Query("sum(carillon_gateway_presence_scopes{@})", "followed"),
                        Query("max(carillon_presence_scopes{@})", "known"),
                    ),
                ),
                Panel(
                    "Leases",
                    "Renewals by outcome; an epoch begins when a gateway starts or had lost its lease.",
                    "ops",
                    (
                        Query(_rate("carillon_gateway_lease_renewals_total", "outcome"), "{{outcome}}"),
                        Query(_rate("carillon_gateway_lease_epochs_total", "pod"), "{{pod}} new epoch"),
                    ),
                ),
                Panel(
                    "Silent gateways",
                    "Suspects, replicas that do not hear themselves and so judge nobody, what was swept.",
                    "short",
                    (
                        Query("max(carillon_presence_suspects{@})", "suspect"),
                        Query("count(carillon_presence_hears{@} == 0)", "deaf replicas"),
                        Query(
                            "sum by (outcome) (increase(carillon_presence_sweeps_total{@}[5m]))",
                            "{{outcome}}",
                        ),
                        Query(
                            "sum by (outcome) (increase(carillon_presence_cleared_total{@}[5m]))",
                            "lists {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Rosters written and folded",
                    "`fenced`: a gateway that had lost its lease tried to write.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_gateway_roster_writes_total", "outcome"), "written {{outcome}}"
                        ),
                        Query(_rate("carillon_presence_writes_total", "outcome"), "folded {{outcome}}"),
                        Query(_rate("carillon_presence_catch_ups_total", "pod"), "{{pod}} catching up"),
                        Query(_rate("carillon_presence_unreadable_total", "stream"), "{{stream}} unreadable"),
                    ),
                ),
                Panel(
                    "Rosters compared",
                    "Pages that gateways compared with who is there. `mended` is never expected.",
                    "ops",
                    (
                        Query(
                            _rate("carillon_gateway_roster_pages_audited_total", "pod"), "{{pod}} compared"
                        ),
                        Query(_rate("carillon_gateway_roster_pages_mended_total", "pod"), "{{pod}} mended"),
                    ),
                ),
                Panel(
                    "Diffs",
                    "Said by the service, and what became of them at gateways: every replica says each.",
                    "ops",
                    (
                        Query(_rate("carillon_presence_diffs_total", "outcome"), "service {{outcome}}"),
                        Query(
                            _rate("carillon_gateway_presence_diffs_total", "outcome"), "gateway {{outcome}}"
                        ),
                        Query(
                            _rate("carillon_gateway_presence_snapshots_total", "outcome"),
                            "snapshot {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Frames and typing",
                    "Frames made for clients, each shared by all who get it; broadcasts of who types.",
                    "ops",
                    (
                        Query(_rate("carillon_gateway_presence_frames_total", "type"), "{{type}}"),
                        Query(
                            _rate("carillon_gateway_typing_broadcasts_total", "outcome"), "typing {{outcome}}"
                        ),
                    ),
                ),
                Panel(
                    "Replicas in step",
                    "Sequence up to which the rosters are complete; the history's backlog and outcomes.",
                    "short",
                    (
                        Query("carillon_presence_folded{@}", "{{pod}} folded"),
                        Query("carillon_presence_history_queued{@}", "{{pod}} history queued"),
                        Query(_rate("carillon_presence_history_total", "outcome"), "history {{outcome}}"),
                    ),
                ),
            ),
        ),
    ),
)

RUNTIME: Final = Board(
    "runtime",
    "Carillon / Runtime",
    "The processes themselves: event loop, memory, file descriptors, the link to NATS.",
    (
        (
            "Event loop",
            (
                Panel(
                    "p99 lag of the event loop",
                    "How late it ran its beats. Above 100 ms every client of that process waits.",
                    "s",
                    (
                        Query(
                            _quantile("0.99", "carillon_event_loop_beat_lag_seconds", "pod, instance"),
                            _PROCESS,
                        ),
                    ),
                ),
                Panel(
                    "Last lag",
                    "Of the beat before the scrape.",
                    "s",
                    (Query("carillon_event_loop_lag_seconds{@}", _PROCESS),),
                ),
                Panel(
                    "CPU",
                    "One event loop uses one core at most.",
                    "percentunit",
                    (Query(f"rate(process_cpu_seconds_total{{@}}[{RATE}])", _PROCESS),),
                ),
                Panel(
                    "Due connections",
                    "Heartbeats, pings and deadlines per second.",
                    "ops",
                    (Query(_rate("carillon_gateway_beats_total", "pod, instance"), _PROCESS),),
                ),
            ),
        ),
        (
            "Memory and descriptors",
            (
                Panel(
                    "Resident memory",
                    "Of each process.",
                    "bytes",
                    (Query("process_resident_memory_bytes{@}", _PROCESS),),
                ),
                Panel(
                    "Memory for each connection",
                    "Resident memory of a gateway divided by its connections: meaningful with many.",
                    "bytes",
                    (
                        Query(
                            "sum by (pod, instance) (process_resident_memory_bytes{@})"
                            " / (sum by (pod, instance) (carillon_gateway_connections{@}) > 100)",
                            _PROCESS,
                        ),
                    ),
                ),
                Panel(
                    "File descriptors",
                    "Used, of those allowed.",
                    "percentunit",
                    (Query("process_open_fds{@} / process_max_fds{@}", _PROCESS),),
                ),
                Panel(
                    "Garbage collections",
                    "Of the oldest generation, per second.",
                    "ops",
                    (
                        Query(
                            f'rate(python_gc_collections_total{{generation="2", @}}[{RATE}])',
                            _PROCESS,
                        ),
                    ),
                ),
            ),
        ),
        (
            "NATS",
            (
                Panel(
                    "Connected",
                    "1 while the connection is up; each process has one for each role.",
                    "short",
                    (Query("carillon_bus_connected{@}", "{{pod}} {{instance}} {{role}}"),),
                ),
                Panel(
                    "Reconnects",
                    "Connections made after the first.",
                    "ops",
                    (Query(_rate("carillon_bus_reconnects_total", "role"), "{{role}}"),),
                ),
                Panel(
                    "Errors by kind",
                    "`permission`: NATS refuses a subject; see `carillon doctor`.",
                    "ops",
                    (Query(_rate("carillon_bus_errors_total", "role, kind"), "{{role}} {{kind}}"),),
                ),
                Panel(
                    "Waits for the socket",
                    "Bytes queued for NATS; 8 MiB is the bound.",
                    "bytes",
                    (Query("carillon_bus_pending_bytes{@}", "{{pod}} {{instance}} {{role}}"),),
                ),
                Panel(
                    "Requests that wait",
                    "For an answer over NATS; 4096 is the bound.",
                    "short",
                    (Query("carillon_bus_requests_waiting{@}", "{{pod}} {{instance}} {{role}}"),),
                ),
            ),
        ),
        (
            "Processes",
            (
                Panel(
                    "Ready",
                    "1 while it may get traffic.",
                    "short",
                    (Query("carillon_ready{@}", "{{component}} {{pod}} {{instance}}"),),
                ),
                Panel(
                    "Running",
                    "By service and version.",
                    "short",
                    (Query("count by (component, version) (carillon_info{@})", "{{component}} {{version}}"),),
                ),
                Panel(
                    "Seconds left of a drain",
                    "Below zero: it takes longer than it should.",
                    "s",
                    (
                        Query(
                            "(carillon_gateway_drain_deadline_seconds{@} > 0) - time()",
                            _PROCESS,
                        ),
                    ),
                ),
            ),
        ),
    ),
)

BOARDS: Final = (FLEET, DELIVERY, SERVICES, RUNTIME)
