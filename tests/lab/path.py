"""What a path does to TCP, by plain sockets: an independent second opinion on multiconn-probe.

    path.py HOST PORT

Prints one JSON object: for echo whether 22 bytes came back, and if they did: for half-close how many bytes came back of 22,
100,000, 4,000,000, and 6,000,000 to a reader that pauses 1.5 s, and the offset of the first wrong one; for idle whether a
connection lived through 1 and through 4 s; for sizes those that came back whole.
"""

import json
import socket
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
            piece = connection.recv(65536)
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


def main():
    found = {"echo": size(22)}
    if found["echo"]:
        with ThreadPoolExecutor(max_workers=16) as beside:
            half_closes = beside.map(half_close, (22, 100000, 4000000, 6000000), (0, 0, 0, 1.5))
            lives = {str(seconds): beside.submit(idle, seconds) for seconds in (1, 4)}
            whole = {str(count): beside.submit(size, count) for count in (1, 536, 1240, 1256, 1460, 9000, 65536)}
            found["half-close"] = list(half_closes)
            found["idle"] = {name: future.result() for name, future in lives.items()}
            found["sizes"] = {name: future.result() for name, future in whole.items()}
    print(json.dumps(found))


main()
