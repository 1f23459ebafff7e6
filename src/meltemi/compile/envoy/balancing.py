"""How a cluster chooses among its endpoints, and when it stops choosing one."""

import datetime
from typing import Any

from meltemi.api.networking import ConsistentHash, LoadBalancer, OutlierDetection
from meltemi.compile.envoy.kit import set_duration

_ROUND_ROBIN, _LEAST_REQUEST, _RING_HASH, _RANDOM, _MAGLEV = 0, 1, 2, 3, 5
_SIMPLE = {"ROUND_ROBIN": _ROUND_ROBIN, "RANDOM": _RANDOM}
_RING = 1024
_WARM_PERCENT, _WARM_AGGRESSION = 10.0, 1.0


def balancer(message: Any, settings: LoadBalancer, *, weighs_localities: bool) -> None:
    """Fill a cluster's load balancing policy: LEAST_REQUEST unless another is named."""
    if settings.consistent_hash is not None:
        _consistent_hash(message, settings.consistent_hash)
    else:
        message.lb_policy = _SIMPLE.get(settings.simple or "", _LEAST_REQUEST)
        _warmup(message, settings)
    if weighs_localities:
        message.common_lb_config.locality_weighted_lb_config.SetInParent()


def _consistent_hash(message: Any, consistent: ConsistentHash) -> None:
    if consistent.maglev is not None:
        message.lb_policy = _MAGLEV
        if consistent.maglev.table_size:
            message.maglev_lb_config.table_size.value = consistent.maglev.table_size
        return
    message.lb_policy = _RING_HASH
    ring = consistent.ring_hash.minimum_ring_size if consistent.ring_hash else 0
    size = ring or consistent.minimum_ring_size or _RING
    message.ring_hash_lb_config.minimum_ring_size.value = size


def _warmup(message: Any, settings: LoadBalancer) -> None:
    """New endpoints get their share little by little."""
    warmup = settings.warmup
    duration = (warmup.duration if warmup else None) or settings.warmup_duration_secs
    if not duration or message.lb_policy == _RANDOM:
        return
    round_robin = message.lb_policy == _ROUND_ROBIN
    config = message.round_robin_lb_config if round_robin else message.least_request_lb_config
    start = config.slow_start_config
    set_duration(start.slow_start_window, duration)
    least = warmup.minimum_percent if warmup is not None else None
    start.min_weight_percent.value = _WARM_PERCENT if least is None else least
    aggression = warmup.aggression if warmup is not None else None
    start.aggression.default_value = aggression or _WARM_AGGRESSION
    start.aggression.runtime_key = "slow_start.aggression"


def outlier_detection(message: Any, settings: OutlierDetection) -> None:
    """Endpoints that fail leave for a while, longer each time. Zero turns a kind of failure off;
    success rates are never judged."""
    target = message.outlier_detection
    target.enforcing_success_rate.value = 0
    gateway = settings.consecutive_gateway_errors
    if gateway is None and settings.consecutive_errors:
        gateway = settings.consecutive_errors
    if gateway is not None:
        if gateway:
            target.consecutive_gateway_failure.value = gateway
        target.enforcing_consecutive_gateway_failure.value = 100 if gateway else 0
    errors = settings.consecutive_5xx_errors
    if errors is not None:
        if errors:
            target.consecutive_5xx.value = errors
        target.enforcing_consecutive_5xx.value = 100 if errors else 0
    if settings.interval:
        set_duration(target.interval, settings.interval)
    if settings.base_ejection_time:
        _ejection(target, settings.base_ejection_time)
    if settings.max_ejection_percent:
        target.max_ejection_percent.value = settings.max_ejection_percent
    if settings.split_external_local_origin_errors:
        _local_origin(target, settings)
    # Panic mode would send traffic to ejected hosts; Istio turns it off with outlier detection.
    message.common_lb_config.healthy_panic_threshold.value = float(settings.min_health_percent)


_LONGEST = datetime.timedelta(seconds=300)


def _ejection(target: Any, base: datetime.timedelta) -> None:
    """The time grows with every ejection; its bound must not be shorter than its start."""
    set_duration(target.base_ejection_time, base)
    if base > _LONGEST:
        set_duration(target.max_ejection_time, base)


def _local_origin(target: Any, settings: OutlierDetection) -> None:
    """Failures to connect are counted apart from what servers answer."""
    target.split_external_local_origin_errors = True
    target.enforcing_local_origin_success_rate.value = 0
    failures = settings.consecutive_local_origin_failures
    if failures is not None:
        if failures:
            target.consecutive_local_origin_failure.value = failures
        target.enforcing_consecutive_local_origin_failure.value = 100 if failures else 0
