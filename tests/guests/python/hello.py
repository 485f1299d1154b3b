"""An HTTP component in plain Python, made by componentize-py, that knows nothing of Ringfence: it says where it was asked."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

CHUNK_BYTES = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = request.path_with_query()
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        text = f"Python answers {path}\n".encode()
        with body.write() as stream:
            for start in range(0, len(text), CHUNK_BYTES):
                stream.blocking_write_and_flush(text[start : start + CHUNK_BYTES])
        OutgoingBody.finish(body, None)
