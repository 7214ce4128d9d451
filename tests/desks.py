"""What both wires do with a call, for the tests of what stands at the desk."""


def serve(desk, call, answer):
    """Has the desk let a call in and answer it."""
    desk.admit(call)
    return desk.serve(call, answer)
