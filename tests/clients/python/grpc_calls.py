"""A gRPC server and a client of it, of bytes and without protobuf.

`grpc_calls.py serve` prints the port that it listens on, and when a call hangs.
`grpc_calls.py call HOST:PORT CASE` makes the calls of a case and fails where they do not go as they should.
"""

import argparse
import concurrent.futures
import queue
import threading

import grpc

SERVICE = "test.Calls"


def say(text):
    print(text, flush=True)


# What the server does.


def echo(request, context):
    metadata = dict(context.invocation_metadata())
    if "ask" in metadata:
        context.send_initial_metadata((("heard", metadata["ask"]),))
        context.set_trailing_metadata((("after", metadata["ask"]), ("after-bin", b"\x00\xff")))
    return request


def fail(request, context):
    context.set_trailing_metadata((("why", "tested"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % ünready")


def fail_late(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "after one")


def count(request, context):
    for n in range(int(request)):
        yield str(n).encode()


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def answer_each(requests, context):
    for request in requests:
        yield b"re: " + request


hanging = threading.Event()
hung = threading.Event()


def hang(request, context):
    context.add_callback(hung.set)
    hanging.set()
    say("hangs")
    hung.wait(60)
    return b""


def hang_in_stream(requests, context):
    yield b"begun"
    yield hang(b"", context)


def when(event):
    """Says whether a call that hangs got this far, as soon as it did."""
    return lambda request, context: b"yes" if event.wait(10) else b"no"


def serve():
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "AnswerEach": grpc.stream_stream_rpc_method_handler(answer_each),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "HangInStream": grpc.stream_stream_rpc_method_handler(hang_in_stream),
        "WhenHanging": grpc.unary_unary_rpc_method_handler(when(hanging)),
        "WhenEnded": grpc.unary_unary_rpc_method_handler(when(hung)),
    }
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    say(f"port {server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    server.wait_for_termination()


# What the client expects.


def method(name):
    return f"/{SERVICE}/{name}"


def error_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def unary(channel):
    for body in (b"", b"x", b"y" * 3_000_000):
        assert channel.unary_unary(method("Echo"))(body, timeout=20) == body


def server_stream(channel):
    answers = list(channel.unary_stream(method("Count"))(b"1000", timeout=20))
    assert answers == [str(n).encode() for n in range(1000)], answers[-1:]


def client_stream(channel):
    parts = (b"z" * 10_000 for _ in range(300))
    assert channel.stream_unary(method("Total"))(parts, timeout=20) == b"3000000"


def bidi(channel):
    """Each message is sent only when the answer to the one before has come."""
    to_send = queue.Queue()
    answers = channel.stream_stream(method("AnswerEach"))(iter(to_send.get, None), timeout=20)
    for n in range(50):
        to_send.put(str(n).encode())
        answer = next(answers)
        assert answer == f"re: {n}".encode(), answer
    to_send.put(None)
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def metadata(channel):
    _, call = channel.unary_unary(method("Echo")).with_call(b"", metadata=(("ask", "this"),), timeout=20)
    assert dict(call.initial_metadata())["heard"] == "this"
    trailing = dict(call.trailing_metadata())
    assert trailing["after"] == "this" and trailing["after-bin"] == b"\x00\xff", trailing


def status(channel):
    error = error_of(lambda: channel.unary_unary(method("Fail"))(b"", timeout=20))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not today: 100 % ünready", error
    assert dict(error.trailing_metadata())["why"] == "tested", error
    answers = channel.unary_stream(method("FailLate"))(b"", timeout=20)
    assert next(answers) == b"one"
    error = error_of(lambda: next(answers))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "after one"), error
    error = error_of(lambda: channel.unary_unary(method("Nothing"))(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error


def happens(channel, name):
    assert channel.unary_unary(method(name))(b"", timeout=20) == b"yes", name


def cancel_waiting(channel):
    call = channel.unary_unary(method("Hang")).future(b"")
    happens(channel, "WhenHanging")
    call.cancel()
    happens(channel, "WhenEnded")


def cancel_stream(channel):
    to_send = queue.Queue()
    answers = channel.stream_stream(method("HangInStream"))(iter(to_send.get, None))
    assert next(answers) == b"begun"
    happens(channel, "WhenHanging")
    answers.cancel()
    happens(channel, "WhenEnded")
    to_send.put(None)


def deadline(channel):
    error = error_of(lambda: channel.unary_unary(method("Hang"))(b"", timeout=1))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    happens(channel, "WhenEnded")


def concurrent_calls(channel):
    call = channel.unary_unary(method("Echo"))
    bodies = [str(n).encode() * 100 for n in range(100)]
    calls = [call.future(body, timeout=20) for body in bodies]
    assert [call.result() for call in calls] == bodies


def quiet(channel):
    """A second between two messages, each way."""
    to_send = queue.Queue()
    answers = channel.stream_stream(method("AnswerEach"))(iter(to_send.get, None), timeout=20)
    for _ in range(3):
        to_send.put(b"x")
        assert next(answers) == b"re: x"
        threading.Event().wait(1)
    to_send.put(None)
    assert list(answers) == []


def killed(channel):
    error = error_of(lambda: channel.unary_unary(method("Hang"))(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    for _ in range(20):
        assert channel.unary_unary(method("Echo"))(b"on", timeout=20) == b"on"


CASES = [unary, server_stream, client_stream, bidi, metadata, status, cancel_waiting, cancel_stream, deadline,
         concurrent_calls, quiet, killed]


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    call = commands.add_parser("call")
    call.add_argument("target")
    call.add_argument("case", choices=[case.__name__ for case in CASES])
    arguments = parser.parse_args()
    if arguments.command == "serve":
        return serve()
    case = next(case for case in CASES if case.__name__ == arguments.case)
    with grpc.insecure_channel(arguments.target) as channel:
        case(channel)


main()
