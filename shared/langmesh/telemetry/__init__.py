"""Telemetry: spans over OTLP, JSON logs, and the embedded stand-in for a collector.

``tracecontext`` parses W3C trace context, ``spans`` and ``tracing`` make spans, ``export`` hands
them to OpenTelemetry's exporters, ``attributes`` names everything that is put on them. ``logs``
configures stdlib logging. ``store``, ``receiver_http`` and ``receiver_grpc`` keep spans locally,
``otlp`` decodes them and ``tree`` draws them. No other package imports OpenTelemetry, and nothing
here may block or fail a run.
"""
