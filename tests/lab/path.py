"""What a path does to TCP, by plain sockets: an independent second opinion on multiconn-probe.

    path.py HOST PORT

Prints one JSON object: for echo whether 22 bytes came back, and if they did: for half-close how many bytes came back of 22,
100,000, 4,000,000, and 6,000,000 to a reader that pauses 1.5 s, and the offset of the first wrong one; for idle whether a
connection lived through 1 and through 4 s; for sizes those that came back whole. Where a partner answers
(docs/probe-protocol.md), also for what needs one: whether it is carried.
"""

import json
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

HOST, PORT = sys.argv[1], int(sys.argv[2])
PATIENCE = 5


def data(count):
    return (bytes(range(251)) * (count // 251 + 1))[:count]


def connect():
    return socket.create_connection((HOST, PORT), timeout=PATIENCE)


def read(connection, most):
    """What comes until `most` bytes are there, the end, an error, or PATIENCE without a byte; and how that ended."""
    got = bytearray()
    while len(got) < most:
        try:
            piece = connection.recv(min(65536, most - len(got)))
        except TimeoutError:
            return bytes(got), "silent"
        except OSError:
            return bytes(got), "reset"
        if not piece:
            return bytes(got), "end"
        got += piece
    return bytes(got), "full"


def half_close(count, pause):
    connection, sent = connect(), data(count)

    def send():
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The reader says what came back.

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    time.sleep(pause)
    got, how = read(connection, count + 1)
    connection.close()
    wrong = next((at for at, (one, other) in enumerate(zip(got, sent)) if one != other), None)
    return {"returned": len(got), "ended": how, "wrong": wrong, "whole": got == sent and how == "end"}


def idle(seconds):
    connection = connect()
    for pause in (0, seconds):
        time.sleep(pause)
        try:
            connection.sendall(b"x")
        except OSError:
            return False
        if read(connection, 1)[0] != b"x":
            return False
    return True


def size(count):
    connection, sent = connect(), data(count)
    try:
        connection.sendall(sent)
    except OSError:
        return False
    return read(connection, count)[0] == sent


def ask(question, connection=None):
    """Asks a partner. Returns the connection behind the answer, and the answer by names; no answer if none is there."""
    connection = connection or connect()
    line = b"multiconn-probe/1 " + question.encode() + b"\n"
    connection.sendall(line + b"\n")
    if read(connection, len(line))[0] != line:
        return connection, None
    answer = b""
    while not answer.endswith(b"\n\n") and answer != b"\n":
        piece = read(connection, 1)[0]
        if not piece:
            break
        answer += piece
    words = answer.decode().split()
    if words[:2] != ["multiconn-probe/1", "ok"]:
        return connection, None
    return connection, dict(word.split("=", 1) for word in words[2:])


def generated(answer, count):
    """The first bytes of the stream that a partner sends."""
    number, stream = int.from_bytes(bytes.fromhex(answer["stream"]), "little"), bytearray()
    while len(stream) < count:
        stream += number.to_bytes(8, "little")
        halves = (number << 32 | number >> 32) + 0x9E3779B97F4A7C15
        number = (halves << 32 | halves >> 32 & 0xFFFFFFFF) & 0xFFFFFFFFFFFFFFFF
    return bytes(stream[:count])


def end_of(answer):
    """How a connection ended at the partner, once it did."""
    for pause in (0, 0.1, 0.4, 1, 2.5):
        time.sleep(pause)
        end = ask(f"end {answer['server']} {answer['connection']}")[1]
        if end["state"] != "open":
            break
    return end


def carried(row):
    """Whether a row is. One whose answer does not come is not."""
    try:
        return row()
    except (OSError, TypeError) as error:
        print(f"{row.__name__}: {error!r}", file=sys.stderr)
        return False


def first_byte():
    ask("greet 1")[0].close()
    connection = connect()
    connection.settimeout(1.5)
    return read(connection, 27)[0] == b"multiconn-probe/1 greeting\n"


def half_close_server():
    connection, answer = ask("finish 100000")
    got, how = read(connection, 100001)
    try:
        connection.sendall(data(1000))
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # The partner says what arrived.
    return got == generated(answer, 100000) and how == "end" and end_of(answer)["received"] == "1000"


def reset_client():
    connection, answer = ask("who")
    connection.sendall(data(1000))
    read(connection, 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return end_of(answer)["state"] == "reset"


def reset_server():
    connection, answer = ask("reset 1000")
    got, how = read(connection, 1001)
    return got == generated(answer, 1000) and how == "reset"


def unread_close():
    connection, answer = ask("close 1000 700")
    connection.sendall(data(20000))
    got, how = read(connection, 1001)
    return got == generated(answer, 1000) and how == "reset"


def backpressure():
    connection, answer = ask("hold 1500")
    connection.sendall(data(32000000))
    connection.shutdown(socket.SHUT_WR)
    return end_of(answer)["received"] == "32000000"


def urgent():
    connection = ask("who")[0]
    connection.sendall(b"before")
    got = read(connection, 6)[0]
    connection.send(b"!", socket.MSG_OOB)
    connection.sendall(b"behind")
    return got + read(connection, 7)[0] == b"before!behind"


def address():
    connection, answer = ask("who")
    return answer["peer"] == "{}:{}".format(*connection.getsockname())


def backends():
    return len({ask("who")[1]["server"] for _ in range(20)}) == 1


WITH_PARTNER = (half_close_server, reset_client, reset_server, unread_close, backpressure, urgent, address, backends)


def main():
    found = {"echo": size(22)}
    partner = found["echo"] and ask("who")[1]
    if partner:
        found["first-byte"] = carried(first_byte)  # By itself: any other connection that is silent could be greeted.
    if found["echo"]:
        with ThreadPoolExecutor(max_workers=16) as beside:
            half_closes = beside.map(half_close, (22, 100000, 4000000, 6000000), (0, 0, 0, 1.5))
            lives = {str(seconds): beside.submit(idle, seconds) for seconds in (1, 4)}
            whole = {str(count): beside.submit(size, count) for count in (1, 536, 1240, 1256, 1460, 9000, 65536)}
            rows = [beside.submit(carried, row) for row in WITH_PARTNER if partner]
            found["half-close"] = list(half_closes)
            found["idle"] = {name: future.result() for name, future in lives.items()}
            found["sizes"] = {name: future.result() for name, future in whole.items()}
            for row, future in zip(WITH_PARTNER, rows):
                found[row.__name__.replace("_", "-")] = future.result()
    print(json.dumps(found))


main()
