"""What a Ksplice plugin in Python needs besides its own code: `BINARY describe`, the handshake, the services and how they end.

A plugin subclasses Plugin, with one method for each call that it has, and calls serve(). PROTOCOL.md of Ksplice's SDK
(sdk/proto) says what everything here is for; nothing here knows which plugin it serves.
"""

import base64
import collections
import concurrent.futures
import datetime
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ksplice.plugin.v1 import arch_pb2, backend_pb2, base_pb2, transform_pb2
import status_pb2

COOKIE = ("KSPLICE_PLUGIN_COOKIE", "5c6c0f1be8e0447f8d1b3d1f54f7e0b7a0c97b54a2b1d6e1")
PROTOCOL = 1  # the package ksplice.plugin.v1
MAX_MESSAGE = 256 << 20  # bytes, either way
MAX_DETAIL = 64 << 10  # bytes: a diagnostic crosses in a header
CALLS_AT_ONCE = 64  # threads; a Drain must find one while calls run
END_GRACE = 3  # seconds that calls may clean up when the host has died

KINDS = {"arch": (arch_pb2, "Arch"), "backend": (backend_pb2, "Backend"), "transform": (transform_pb2, "Transform")}


class Diagnostic(Exception):
    """An error for people. The fault is "user", "patch", "toolchain", "machine" or "internal"; the summary is one sentence
    without a full stop, the detail says what to do."""

    def __init__(self, fault, summary, detail="", where=""):
        super().__init__(summary)
        self.message = base_pb2.Diagnostic(fault=fault, summary=summary, detail=detail, where=where)


class Plugin:
    """A plugin of one kind. Its calls are methods with the names and messages of the .proto files: `Plan(self, request, context)`.
    One that streams takes an iterator of messages, or is a generator of them. What is not defined is answered UNIMPLEMENTED."""

    kind = ""  # of KINDS
    name = ""
    version = ""
    description = ""
    config = ()  # of base_pb2.ConfigKey
    machines = ()  # of an architecture plugin: ELF machine numbers

    def info(self):
        """Who the plugin is, for `BINARY describe` and GetInfo alike."""
        return base_pb2.Info(kind=self.kind, name=self.name, version=self.version, protocols=[PROTOCOL],
                             description=self.description, config=self.config, machines=self.machines)

    def GetInfo(self, request, context):
        return base_pb2.GetInfoResponse(info=self.info())

    def Configure(self, request, context):
        known = {k.name for k in self.config}
        if unknown := sorted(set(request.config) - known):
            takes = "the plugin takes: " + ", ".join(sorted(known)) if known else "the plugin takes no configuration"
            raise Diagnostic("user", "unknown configuration key " + ", ".join(unknown), takes)
        for key in self.config:
            if key.required and key.name not in request.config:
                raise Diagnostic("user", f"configuration key {key.name} is missing", key.description)
        return base_pb2.ConfigureResponse()

    def CheckHealth(self, request, context):
        return base_pb2.CheckHealthResponse()


class Calls:
    """The calls that run, by the number that the host has given them."""

    def __init__(self):
        self.changed = threading.Condition()
        self.running = collections.Counter()

    def begin(self, context):
        number = dict(context.invocation_metadata()).get("ksplice-call", "")
        with self.changed:
            self.running[number] += 1
        return number

    def end(self, number):
        with self.changed:
            self.running[number] -= 1
            if self.running[number] == 0:
                del self.running[number]
            self.changed.notify_all()

    def drain(self, request, context):
        """Returns when no call with that number runs, or when nobody waits for that any more."""
        with self.changed:
            while self.running[request.call] and context.is_active():
                self.changed.wait(0.1)
        return base_pb2.DrainResponse()

    def idle(self, seconds):
        """Waits for the end of all calls, some seconds at most."""
        with self.changed:
            return self.changed.wait_for(lambda: not self.running, seconds)

    def unary(self, method):
        """The method as a handler that the host can wait for, whose errors are diagnostics."""
        def handle(request, context):
            number = self.begin(context)
            try:
                # A call that was given up before it began does not begin: nobody may wait for it any more.
                return method(request, context) if context.is_active() else None
            except Exception as e:
                fail(context, method.__name__, e)
            finally:
                self.end(number)
        return handle

    def stream(self, method):
        """The same for a method that is a generator."""
        def handle(request, context):
            number = self.begin(context)
            try:
                if context.is_active():
                    yield from method(request, context)
            except Exception as e:
                fail(context, method.__name__, e)
            finally:
                self.end(number)
        return handle


def fail(context, call, error):
    """Ends a call with an error: a status that has a Diagnostic among its details."""
    if not context.is_active():
        raise error  # the host has given the call up: nobody reads what it says
    if not isinstance(error, Diagnostic):
        stack = traceback.format_exc()
        log("error", "an exception in a call", call=call, stack=stack)
        error = Diagnostic("internal", f"the plugin failed in {call}: {error!r}",
                           "this is a bug of the plugin: report it to its author with this stack\n" + stack[-MAX_DETAIL // 2:])
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message="the plugin returned a diagnostic")
    status.details.add().Pack(error.message)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, status.message)


def handlers(module, service, plugin, calls):
    """The handlers of a service's methods, as far as the plugin has them; others are answered UNIMPLEMENTED."""
    service, out = module.DESCRIPTOR.services_by_name[service], {}
    for m in service.methods:
        method = getattr(plugin, m.name, None)
        if method is None:
            continue
        kind = {(False, False): grpc.unary_unary_rpc_method_handler, (False, True): grpc.unary_stream_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler}[m.client_streaming, m.server_streaming]
        handle = calls.stream(method) if m.server_streaming else calls.unary(method)
        out[m.name] = kind(handle, getattr(module, m.input_type.name).FromString, getattr(module, m.output_type.name).SerializeToString)
    return grpc.method_handlers_generic_handler(service.full_name, out)


def constant(service, method, reply, then=lambda: None):
    """A service with one method that always has the same reply, in bytes."""
    def handle(request, context):
        then()
        return reply
    return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(handle)})


def certificate():
    """A new key and a certificate for it that it signed itself, for "localhost"."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1)).not_valid_after(now + datetime.timedelta(days=3650))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256()))
    return key, cert


def log(level, message, **values):
    """Writes a line for the host's log; values are shown beside the message."""
    line = {"@level": level, "@message": message, "@timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(), **values}
    print(json.dumps(line), file=sys.stderr, flush=True)


def describe(info):
    """Prints who the plugin is."""
    out = {"kind": info.kind, "name": info.name, "version": info.version, "protocols": list(info.protocols), "description": info.description}
    if info.config:
        out["config"] = [{"name": k.name, "description": k.description, "required": k.required, "default": k.default} for k in info.config]
    if info.machines:
        out["machines"] = list(info.machines)
    print(json.dumps(out, indent=2))


def serve(plugin):
    """The main function of a plugin: it describes itself, or serves the host that started it until that is done. It does not return."""
    if sys.argv[1:] == ["describe"]:
        describe(plugin.info())
        sys.exit(0)
    if os.environ.get(COOKIE[0]) != COOKIE[1]:
        sys.exit(f"this is a Ksplice {plugin.kind} plugin; ksplice starts it where it needs it.\n"
                 f"`{sys.argv[0]} describe` prints who it is, `ksplice plugin list` whether ksplice finds it.")
    if "PLUGIN_CLIENT_CERT" not in os.environ:
        sys.exit("the host has sent no certificate: it does not ask for mutual TLS, as Ksplice does")

    told = threading.Event()  # to end
    died = threading.Event()  # the host, and that is why

    def terminated(number, frame):
        died.set()
        told.set()
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGHUP, terminated)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the host's

    calls = Calls()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(CALLS_AT_ONCE), options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)])
    drain = grpc.method_handlers_generic_handler("ksplice.plugin.v1.Base", {"Drain": grpc.unary_unary_rpc_method_handler(
        calls.drain, base_pb2.DrainRequest.FromString, base_pb2.DrainResponse.SerializeToString)})
    server.add_generic_rpc_handlers((
        handlers(base_pb2, "Base", plugin, calls), drain, handlers(*KINDS[plugin.kind], plugin, calls),
        constant("grpc.health.v1.Health", "Check", b"\x08\x01"),  # HealthCheckResponse: status (field 1) is SERVING (1)
        constant("plugin.GRPCController", "Shutdown", b"", told.set),  # Empty
    ))
    key, cert = certificate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credentials = grpc.ssl_server_credentials([(private, cert.public_bytes(pem))],
                                              root_certificates=os.environ["PLUGIN_CLIENT_CERT"].encode(), require_client_auth=True)
    host_dir = os.environ.get("PLUGIN_UNIX_SOCKET_DIR")
    directory = host_dir or tempfile.mkdtemp(prefix="plugin-")  # nobody else's: mode 0700
    socket = os.path.join(directory, "socket")
    server.add_secure_port("unix:" + socket, credentials)
    server.start()

    der = base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode().rstrip("=")
    print("|".join(["1", str(PROTOCOL), "unix", socket, "grpc", der]), flush=True)
    os.dup2(2, 1)  # whatever prints from here on goes to the host's log

    told.wait()
    if died.is_set():
        # Calls are cancelled and may clean up. Then everybody in the process group goes, whoever was started.
        server.stop(None)
        calls.idle(END_GRACE)
        shutil.rmtree(directory, ignore_errors=True)  # a host that was killed cannot
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)
    server.stop(1).wait()  # the reply to Shutdown is on its way then; the host waits two seconds
    if not host_dir:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)  # calls that are still running are nobody's any more
