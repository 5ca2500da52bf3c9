import { Agent } from "./client.mjs";

const agent = new Agent("asker");

agent.main(async (task) => {
  const answer = await agent.ask(task, "adder", "add", [17, 25]);
  agent.note("progress", { task, text: `17 + 25 = ${answer}` });
  return answer;
});

agent.handler("unit", async () => "apples");

await agent.start();
