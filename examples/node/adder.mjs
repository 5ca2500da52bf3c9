import { Agent } from "./client.mjs";

const agent = new Agent("adder");

agent.handler("add", async (task, numbers) => {
  let unit = "things";
  try {
    unit = await agent.ask(task, "asker", "unit", "of what?");
  } catch (error) {
    if (error.code !== "would_deadlock") throw error; // the supervisor failed this one wait; the work goes on
    console.log(`no unit: ${error.message}`);
  }
  return `${numbers.reduce((sum, each) => sum + each, 0)} ${unit}`;
});

await agent.start();
