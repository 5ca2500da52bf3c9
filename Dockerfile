# One image for every role of compose.yaml: NATS server, controller, crew. Each service names its own command.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY bus bus
COPY agents agents
COPY supervisor supervisor
COPY examples examples
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[supervisor]'

FROM python:${PYTHON}-slim
# Root only installs; what runs owns two folders and nothing else.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin crewkeeper \
    && install --directory --owner crewkeeper --group crewkeeper --mode 0700 /data /state
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'crewkeeper[supervisor]'
COPY --chmod=0644 deploy/nats-server.conf /etc/nats/nats-server.conf
COPY examples /crew
# The image is read-only at run time, bytecode included.
ENV PYTHONDONTWRITEBYTECODE=1 \
    CREWKEEPER_STATE=/state
USER crewkeeper
WORKDIR /state
CMD ["supervisor", "--help"]
