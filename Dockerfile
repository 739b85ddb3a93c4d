# One image for every part of Twinlens: the command says which (api, or a worker's lane).
FROM python:3.12.14-slim-trixie AS build
WORKDIR /build
COPY locks/runtime.txt locks/
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r locks/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY src/twinlens/__init__.py src/twinlens/py.typed src/twinlens/
COPY shared shared
COPY models models
COPY workers workers
COPY api api
COPY client client
COPY cli cli
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12.14-slim-trixie
RUN useradd --create-home --uid 1000 twinlens && install -d -o twinlens /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 TWINLENS_DATA_DIR=/data
# A number, so that a system that refuses root can tell.
USER 1000:1000
VOLUME /data
ENTRYPOINT ["twinlens"]
CMD ["--help"]
